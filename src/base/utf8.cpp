#include "base/utf8.h"

#include <cstdint>

namespace tq {

// The second byte's range depends on the first.
Utf8Character utf8_character(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(at);
  if (first < 0x80) return {1, true, true};
  const size_t wanted = first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : first >= 0xf0 && first <= 0xf4 ? 4 : 0;
  if (wanted == 0) return {1, false, true};
  for (size_t i = 1; i < wanted; ++i) {
    if (at + i >= text.size()) return {i, false, false};
    uint8_t low = 0x80, high = 0xbf;
    if (i == 1) {
      if (first == 0xe0) low = 0xa0;
      if (first == 0xed) high = 0x9f;
      if (first == 0xf0) low = 0x90;
      if (first == 0xf4) high = 0x8f;
    }
    if (byte(at + i) < low || byte(at + i) > high) return {i, false, true};
  }
  return {wanted, true, true};
}

}  // namespace tq
