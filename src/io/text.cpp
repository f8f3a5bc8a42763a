#include "io/text.h"

#include <cstdint>

namespace tq {
namespace {

// Bytes of the code point that begins the text, 0 if there is no valid one (overlong, surrogate, beyond U+10FFFF, cut off).
size_t code_point_bytes(std::string_view text) {
  const auto at = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (text.empty()) return 0;
  if (at(0) < 0x80) return 1;
  const size_t length = at(0) >= 0xf0 ? 4 : at(0) >= 0xe0 ? 3 : 2;
  if (at(0) < 0xc2 || at(0) > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((at(i) & 0xc0) != 0x80) return 0;
  if ((at(0) == 0xe0 && at(1) < 0xa0) || (at(0) == 0xed && at(1) > 0x9f)) return 0;
  if ((at(0) == 0xf0 && at(1) < 0x90) || (at(0) == 0xf4 && at(1) > 0x8f)) return 0;
  return length;
}

// C0, DEL and C1 (U+0080 to U+009F).
bool control(std::string_view point) {
  const auto first = static_cast<uint8_t>(point[0]);
  return first < 0x20 || first == 0x7f || (first == 0xc2 && static_cast<uint8_t>(point[1]) < 0xa0);
}

}  // namespace

bool valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = code_point_bytes(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

bool printable_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = code_point_bytes(text);
    if (length == 0 || control(text.substr(0, length))) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string shown(std::string_view text, size_t max_bytes) {
  std::string out;
  while (!text.empty()) {
    const size_t length = code_point_bytes(text);
    if (out.size() + (length ? length : 1) > max_bytes) return out + "…";
    if (length == 0 || control(text.substr(0, length))) out += '?';
    else out += text.substr(0, length);
    text.remove_prefix(length ? length : 1);
  }
  return out;
}

}  // namespace tq
