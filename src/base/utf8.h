// What a character of UTF-8 is.
#pragma once

#include <cstddef>
#include <string_view>

namespace tq {

struct Utf8Character {
  size_t length;  // bytes that belong together, at least 1
  bool valid;
  bool complete;  // false: the text ended within a character that was sound so far
};

// What begins at text[at], which must lie within the text. Not valid: overlong forms, surrogates, what lies beyond U+10FFFF.
Utf8Character utf8_character(std::string_view text, size_t at);

}  // namespace tq
