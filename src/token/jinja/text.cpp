#include "token/jinja/text.h"

#include <algorithm>
#include <cstring>

#include <utf8proc.h>

#include "token/utf8.h"

namespace tq::jinja {
namespace {

constexpr size_t kNone = std::string_view::npos;

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

// Byte offset of the character that ends at `end`.
size_t previous(std::string_view text, size_t end) {
  for (size_t back = 1; back <= 4 && back <= end; ++back)
    if (utf8_length(text.substr(0, end), end - back) == back) return end - back;
  return end - 1;
}

template <typename Map>
std::string map_chars(std::string_view text, Map map) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = utf8_length(text, at);
    if (bytes == 0) out += text[at];
    else map(out, utf8_decode(text, at));
    at += std::max<size_t>(bytes, 1);
  }
  return out;
}

void append_upper(std::string& out, uint32_t c) {
  if (c == 0xdf) out += "SS";
  else utf8_append(out, static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
}
void append_title(std::string& out, uint32_t c) {
  if (c == 0xdf) out += "Ss";
  else utf8_append(out, static_cast<uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
}
void append_lower(std::string& out, uint32_t c) {
  if (c == 0x130) out += "i\xcc\x87";
  else utf8_append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

utf8proc_category_t category(uint32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

}  // namespace

size_t char_bytes(std::string_view text, size_t at) { return std::max<size_t>(utf8_length(text, at), 1); }

uint32_t char_at(std::string_view text, size_t at) { return utf8_length(text, at) ? utf8_decode(text, at) : 0xfffd; }

int64_t count_chars(std::string_view text) {
  if (is_ascii(text)) return static_cast<int64_t>(text.size());
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); at += char_bytes(text, at)) ++count;
  return count;
}

size_t byte_offset(std::string_view text, int64_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += char_bytes(text, at);
  return at;
}

std::vector<std::string_view> split_chars(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < text.size(); at += out.back().size()) out.push_back(text.substr(at, char_bytes(text, at)));
  return out;
}

bool is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_printable(uint32_t c) {
  if (c == ' ') return true;
  const auto kind = category(c);
  return kind != UTF8PROC_CATEGORY_CN && kind < UTF8PROC_CATEGORY_ZS;
}

bool is_letter(uint32_t c) {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}
bool is_digit(uint32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_upper(uint32_t c) { return category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower(uint32_t c) { return category(c) == UTF8PROC_CATEGORY_LL; }

std::string_view strip(std::string_view text, bool left, bool right) {
  size_t begin = 0, end = text.size();
  while (left && begin < end && is_space(char_at(text, begin))) begin += char_bytes(text, begin);
  for (size_t at; right && end > begin; end = at) {
    at = previous(text, end);
    if (!is_space(char_at(text, at))) break;
  }
  return text.substr(begin, end - begin);
}

std::string_view strip_chars(std::string_view text, std::string_view chars, bool left, bool right) {
  const auto has = [&](std::string_view one) { return find_text(chars, one) != kNone; };
  size_t begin = 0, end = text.size();
  while (left && begin < end && has(text.substr(begin, char_bytes(text, begin)))) begin += char_bytes(text, begin);
  for (size_t at; right && end > begin; end = at) {
    at = previous(text, end);
    if (!has(text.substr(at, end - at))) break;
  }
  return text.substr(begin, end - begin);
}

std::string to_upper(std::string_view text) { return map_chars(text, append_upper); }
std::string to_lower(std::string_view text) { return map_chars(text, append_lower); }

std::string capitalize(std::string_view text) {
  bool first = true;
  return map_chars(text, [&](std::string& out, uint32_t c) {
    if (first) append_title(out, c);
    else append_lower(out, c);
    first = false;
  });
}

std::string title(std::string_view text) {
  bool in_word = false;
  return map_chars(text, [&](std::string& out, uint32_t c) {
    if (in_word) append_lower(out, c);
    else append_title(out, c);
    in_word = is_upper(c) || is_lower(c) || category(c) == UTF8PROC_CATEGORY_LT;
  });
}

std::string swap_case(std::string_view text) {
  return map_chars(text, [](std::string& out, uint32_t c) {
    if (is_upper(c)) append_lower(out, c);
    else append_upper(out, c);
  });
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '\'') out += "&#39;";
    else if (c == '"') out += "&#34;";
    else out += c;
  }
  return out;
}

// memmem and not string_view::find: the latter takes quadratic time on repetitive text.
size_t find_text(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return kNone;
  if (needle.empty()) return from;
  const void* at = ::memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  return at ? static_cast<size_t>(static_cast<const char*>(at) - text.data()) : kNone;
}

std::vector<std::string_view> split(std::string_view text, std::string_view separator, int64_t limit) {
  std::vector<std::string_view> out;
  size_t at = 0;
  for (; limit < 0 || static_cast<int64_t>(out.size()) < limit;) {
    const size_t end = find_text(text, separator, at);
    if (end == kNone) break;
    out.push_back(text.substr(at, end - at));
    at = end + separator.size();
  }
  out.push_back(text.substr(at));
  return out;
}

std::vector<std::string_view> rsplit(std::string_view text, std::string_view separator, int64_t limit) {
  std::vector<std::string_view> out;
  size_t end = text.size();
  for (; limit < 0 || static_cast<int64_t>(out.size()) < limit;) {
    const size_t at = text.substr(0, end).rfind(separator);
    if (at == kNone) break;
    out.push_back(text.substr(at + separator.size(), end - at - separator.size()));
    end = at;
  }
  out.push_back(text.substr(0, end));
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split_space(std::string_view text, int64_t limit) {
  std::vector<std::string_view> out;
  for (text = strip(text, true, false); !text.empty(); text = strip(text, true, false)) {
    size_t end = 0;
    if (limit >= 0 && static_cast<int64_t>(out.size()) >= limit) end = text.size();
    while (end < text.size() && !is_space(char_at(text, end))) end += char_bytes(text, end);
    out.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return out;
}

std::vector<std::string_view> rsplit_space(std::string_view text, int64_t limit) {
  std::vector<std::string_view> out;
  for (text = strip(text, false, true); !text.empty(); text = strip(text, false, true)) {
    size_t begin = text.size();
    if (limit >= 0 && static_cast<int64_t>(out.size()) >= limit) begin = 0;
    while (begin > 0 && !is_space(char_at(text, previous(text, begin)))) begin = previous(text, begin);
    out.push_back(text.substr(begin));
    text = text.substr(0, begin);
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> out;
  for (size_t begin = 0, at = 0; at < text.size();) {
    const uint32_t c = char_at(text, at);
    size_t next = at + char_bytes(text, at);
    const bool ends = (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (c == '\r' && next < text.size() && text[next] == '\n') ++next;
    if (ends || next == text.size()) {
      out.push_back(text.substr(begin, (ends && !keep_ends ? at : next) - begin));
      begin = next;
    }
    at = next;
  }
  return out;
}

}  // namespace tq::jinja
