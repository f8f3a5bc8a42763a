// Which build this is.
#pragma once

#include <string>

namespace tq::cli {

// The first 12 digits of the id that the linker puts into the program: the same for the same code and flags. "unknown" if there is none.
std::string build_id();
// The processor's name as the system tells it; empty if it does not.
std::string processor_name();

}  // namespace tq::cli
