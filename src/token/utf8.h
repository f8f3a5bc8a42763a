// UTF-8, character by character.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tq {

inline constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// Length of the valid character that begins at text[at], or 0.
size_t utf8_length(std::string_view text, size_t at);
// The code point of a valid character at text[at].
uint32_t utf8_decode(std::string_view text, size_t at);
void utf8_append(std::string& out, uint32_t code_point);
// The text with every byte that belongs to no valid character replaced by U+FFFD (one per maximal broken part, as Python does).
std::string utf8_repair(std::string_view text);
// The front of a text for a message: 40 bytes of it at most, repaired.
std::string utf8_front(std::string_view text);
// How many bytes at the end are the beginning of a character whose rest is missing.
size_t utf8_incomplete_tail(std::string_view text);

}  // namespace tq
