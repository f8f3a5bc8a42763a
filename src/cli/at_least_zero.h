// The check of flags that count something.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

namespace tq::cli {

// CLI11's own names the largest number there is, in 300 digits.
inline CLI::Validator at_least_zero() {
  return {[](std::string& text) { return text.starts_with('-') ? text + " is less than 0" : std::string(); }, "NONNEGATIVE"};
}

}  // namespace tq::cli
