#include "token/charsmap.h"

#include <algorithm>
#include <cstring>

#include <utf8proc.h>

#include "token/utf8.h"

namespace tq {
namespace {

// A unit of Darts-clone's double array.
bool has_leaf(uint32_t unit) { return (unit >> 8) & 1; }
uint32_t value(uint32_t unit) { return unit & 0x7fffffff; }
uint32_t label(uint32_t unit) { return unit & 0x800000ff; }
uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & 0x200) >> 6); }

constexpr size_t kShortCluster = 6;  // bytes

}  // namespace

std::optional<std::string> decode_base64(std::string_view text) {
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  while (text.ends_with('=')) text.remove_suffix(1);
  for (const char c : text) {
    const uint32_t digit = c >= 'A' && c <= 'Z'   ? static_cast<uint32_t>(c - 'A')
                           : c >= 'a' && c <= 'z' ? static_cast<uint32_t>(c - 'a') + 26
                           : c >= '0' && c <= '9' ? static_cast<uint32_t>(c - '0') + 52
                           : c == '+'             ? 62
                           : c == '/'             ? 63
                                                  : 64;
    if (digit == 64) return std::nullopt;
    bits = bits << 6 | digit;
    count += 6;
    if (count >= 8) out += static_cast<char>(bits >> (count -= 8) & 255);
  }
  return out;
}

Result<Charsmap> Charsmap::parse(std::string_view blob, Walk walk, const std::string& where) {
  uint32_t size = 0;
  if (blob.size() < sizeof size) return bad_input("{}: the precompiled character map is too short", where);
  std::memcpy(&size, blob.data(), sizeof size);
  if (size % 4 != 0 || size > blob.size() - sizeof size) return bad_input("{}: the precompiled character map is damaged", where);
  Charsmap out;
  out.walk_ = walk;
  out.units_.resize(size / 4);
  if (size > 0) std::memcpy(out.units_.data(), blob.data() + sizeof size, size);
  out.replacements_ = blob.substr(sizeof size + size);
  if (out.replacements_.empty() || out.replacements_.back() != '\0') out.replacements_ += '\0';
  return out;
}

std::optional<Charsmap::Rule> Charsmap::find(std::string_view text, bool wants_shortest) const {
  std::optional<Rule> best;
  if (units_.empty()) return best;
  uint64_t at = offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    at ^= byte;
    if (byte == 0 || at >= units_.size() || label(units_[at]) != byte) break;
    const uint32_t unit = units_[at];
    at ^= offset(unit);
    if (!has_leaf(unit)) continue;
    if (at >= units_.size() || value(units_[at]) >= replacements_.size()) break;
    best = Rule{i + 1, std::string_view(replacements_.data() + value(units_[at]))};
    if (wants_shortest) break;
  }
  return best;
}

void Charsmap::apply_longest(std::string_view text, Rewriting& out) const {
  for (size_t at = 0; at < text.size();) {
    const std::optional<Rule> rule = longest(text.substr(at, 64));
    const size_t length = rule ? rule->length : std::max<size_t>(1, utf8_length(text, at));  // a hostile map may cut characters
    if (rule) out.put(rule->replacement, at, at + length);
    else out.keep(text, at, at + length);
    at += length;
  }
}

void Charsmap::apply_to_clusters(std::string_view text, Rewriting& out) const {
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin;
    utf8proc_int32_t state = 0, before = 0;
    while (end < text.size()) {
      const auto c = static_cast<utf8proc_int32_t>(utf8_decode(text, end));
      if (end > begin && utf8proc_grapheme_break_stateful(before, c, &state)) break;
      before = c;
      end += utf8_length(text, end);
    }
    const std::optional<Rule> whole = end - begin < kShortCluster ? shortest(text.substr(begin, end - begin)) : std::nullopt;
    if (whole) out.put(whole->replacement, begin, end);
    for (size_t at = begin; !whole && at < end;) {
      const size_t length = utf8_length(text, at);
      const std::optional<Rule> rule = shortest(text.substr(at, length));
      if (rule) out.put(rule->replacement, at, at + length);
      else out.keep(text, at, at + length);
      at += length;
    }
    begin = end;
  }
}

void Charsmap::apply(std::string_view text, Rewriting& out) const {
  Rewriting mapped(out.is_traced());
  if (walk_ == Walk::kSentencePiece) apply_longest(text, mapped);
  else apply_to_clusters(text, mapped);
  repair(mapped.text, out);
  out.follow(mapped);
}

}  // namespace tq
