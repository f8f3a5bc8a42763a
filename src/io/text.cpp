#include "io/text.h"

#include <cstdint>

#include "base/utf8.h"

namespace tq {
namespace {

// Bytes of the character that begins the text, 0 if it is not valid. The text must not be empty.
size_t character_bytes(std::string_view text) {
  const Utf8Character first = utf8_character(text, 0);
  return first.valid ? first.length : 0;
}

// C0, DEL and C1 (U+0080 to U+009F).
bool control(std::string_view point) {
  const auto first = static_cast<uint8_t>(point[0]);
  return first < 0x20 || first == 0x7f || (first == 0xc2 && static_cast<uint8_t>(point[1]) < 0xa0);
}

}  // namespace

bool valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = character_bytes(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

bool printable_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = character_bytes(text);
    if (length == 0 || control(text.substr(0, length))) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string shown(std::string_view text, size_t max_bytes) {
  std::string out;
  while (!text.empty()) {
    const size_t length = character_bytes(text);
    if (out.size() + (length ? length : 1) > max_bytes) return out + "…";
    if (length == 0 || control(text.substr(0, length))) out += '?';
    else out += text.substr(0, length);
    text.remove_prefix(length ? length : 1);
  }
  return out;
}

}  // namespace tq
