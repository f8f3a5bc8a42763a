#include "token/utf8.h"

#include <utility>

#include "base/utf8.h"
#include "token/rewriting.h"

namespace tq {

size_t utf8_length(std::string_view text, size_t at) {
  const Utf8Character one = utf8_character(text, at);
  return one.valid ? one.length : 0;
}

uint32_t utf8_decode(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(text[at + i])); };
  const uint32_t first = byte(0);
  if (first < 0x80) return first;
  if (first < 0xe0) return (first & 31) << 6 | (byte(1) & 63);
  if (first < 0xf0) return (first & 15) << 12 | (byte(1) & 63) << 6 | (byte(2) & 63);
  return (first & 7) << 18 | (byte(1) & 63) << 12 | (byte(2) & 63) << 6 | (byte(3) & 63);
}

void utf8_append(std::string& out, uint32_t c) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) return put(c);
  if (c < 0x800) return put(0xc0 | c >> 6), put(0x80 | (c & 63));
  if (c < 0x10000) return put(0xe0 | c >> 12), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
  put(0xf0 | c >> 18), put(0x80 | (c >> 12 & 63)), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
}

std::string utf8_repair(std::string_view text) {
  Rewriting out(false);
  repair(text, out);
  return std::move(out.text);
}

size_t utf8_incomplete_tail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<uint8_t>(text[text.size() - back]);
    if (byte < 0x80) return 0;
    if (byte < 0xc0) continue;
    const Utf8Character one = utf8_character(text, text.size() - back);
    return one.complete ? 0 : back;
  }
  return 0;
}

std::string utf8_front(std::string_view text) { return utf8_repair(text.substr(0, 40)); }

}  // namespace tq
