// Text that came out of a file: whether it may be used as a name, and how a message shows it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tq {

bool valid_utf8(std::string_view text);

// Valid UTF-8 without control characters: safe in messages, terminals and JSON.
bool printable_utf8(std::string_view text);

// At most max_bytes of the text with what is not printable replaced by '?', and "…" where it was cut.
std::string shown(std::string_view text, size_t max_bytes = 80);

}  // namespace tq
