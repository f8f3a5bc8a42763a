// Python's str methods on UTF-8. Positions and lengths are characters; a byte of no valid character counts as one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tq::jinja {

// Bytes of the character at text[at].
size_t char_bytes(std::string_view text, size_t at);
// Its code point; U+FFFD for a stray byte.
uint32_t char_at(std::string_view text, size_t at);
int64_t count_chars(std::string_view text);
// Byte offset of character `index`, text.size() when there are fewer.
size_t byte_offset(std::string_view text, int64_t index);
std::vector<std::string_view> split_chars(std::string_view text);

bool is_space(uint32_t code_point);
bool is_printable(uint32_t code_point);  // as repr() sees it
bool is_letter(uint32_t code_point);
bool is_digit(uint32_t code_point);  // of category Nd
bool is_upper(uint32_t code_point);
bool is_lower(uint32_t code_point);

std::string_view strip(std::string_view text, bool left, bool right);
std::string_view strip_chars(std::string_view text, std::string_view chars, bool left, bool right);
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);
std::string swap_case(std::string_view text);
std::string escape_html(std::string_view text);

// First occurrence at or after the byte `from`, or npos; linear time.
size_t find_text(std::string_view text, std::string_view needle, size_t from = 0);
// limit < 0: no limit
std::vector<std::string_view> split(std::string_view text, std::string_view separator, int64_t limit);
std::vector<std::string_view> rsplit(std::string_view text, std::string_view separator, int64_t limit);
std::vector<std::string_view> split_space(std::string_view text, int64_t limit);
std::vector<std::string_view> rsplit_space(std::string_view text, int64_t limit);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

}  // namespace tq::jinja
