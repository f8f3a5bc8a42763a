// Flags that say nothing without another one.
#pragma once

#include <initializer_list>
#include <string_view>

#include <CLI/CLI.hpp>

#include "base/result.h"

namespace tq::cli {

// is_on: whether the other one, `with`, is there, be it given or usual. Errors: kUsage for the first of the flags that is given without it,
// with both names.
inline Status goes_with(const CLI::App& app, std::initializer_list<const char*> flags, std::string_view with, bool is_on) {
  for (const char* flag : flags)
    if (!is_on && app.count(flag) > 0) return bad_usage("{} goes with {}", flag, with);
  return {};
}

}  // namespace tq::cli
