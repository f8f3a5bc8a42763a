// What this program calls itself.
#pragma once

#include <string_view>

namespace tq {

// "tq 0.1.0", with the version of CMakeLists.txt.
std::string_view program_name();

}  // namespace tq
