#include "token/added_tokens.h"

#include <algorithm>

#include <utf8proc.h>

#include "token/utf8.h"

namespace tq {
namespace {

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // ▁

// Whether a break lies strictly inside what [begin, end) was made of.
bool is_broken(const AddedSearch& search, size_t begin, size_t end) {
  if (!search.origins.empty()) begin = search.origins[begin].begin, end = search.origins[end - 1].end;
  const auto next = std::upper_bound(search.breaks.begin(), search.breaks.end(), begin);
  return next != search.breaks.end() && *next < end;
}

bool is_within_a_word(std::string_view text, size_t begin, size_t end) {
  return (begin > 0 && is_word_at(text, character_before(text, begin))) || (end < text.size() && is_word_at(text, end));
}

// Without white space and marks for it at the ends; all of it where less than two bytes would be left, which have no place inside.
std::string_view core_of(std::string_view content) {
  const auto is_blank = [content](size_t at) { return is_space_at(content, at) || content.substr(at).starts_with(kSpaceMark); };
  size_t begin = 0, end = content.size();
  while (begin < end && is_blank(begin)) begin += utf8_length(content, begin);
  while (end > begin && is_blank(character_before(content, end))) end = character_before(content, end);
  return end - begin < 2 ? content : content.substr(begin, end - begin);
}

}  // namespace

bool is_space_at(std::string_view text, size_t at) {
  const uint32_t c = utf8_decode(text, at);
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP || c == 0x85;
}

bool is_word_at(std::string_view text, size_t at) {
  const uint32_t c = utf8_decode(text, at);
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_PC || (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || c == 0x200c ||
         c == 0x200d;
}

size_t character_before(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xc0) == 0x80);
  return at;
}

void AddedTokens::index() {
  contents_ = {}, cores_ = {};
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i].content.empty()) continue;
    by_id_.emplace(tokens_[i].id, i);
    if (tokens_[i].normalized != finds_normalized_ || utf8_repair(tokens_[i].content) != tokens_[i].content) continue;
    contents_.sorted.push_back({tokens_[i].content, &tokens_[i]});  // others would cut characters
    if (tokens_[i].special) cores_.sorted.push_back({core_of(tokens_[i].content), &tokens_[i]});
  }
  contents_.sort();
  cores_.sort();
}

void AddedTokens::Index::sort() {
  std::stable_sort(sorted.begin(), sorted.end(), [](const Entry& a, const Entry& b) { return a.text < b.text; });
  for (uint32_t i = 0; i < sorted.size(); ++i) {
    auto& [begin, end] = by_first[static_cast<uint8_t>(sorted[i].text[0])];
    if (end == 0) begin = i;
    end = i + 1;
  }
}

const AddedToken* AddedTokens::by_id(TokenId id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

void AddedTokens::Index::prefixes(std::string_view text, size_t at, std::vector<const Entry*>& out) const {
  out.clear();
  const auto [first, last] = by_first[static_cast<uint8_t>(text[at])];
  auto begin = sorted.begin() + first, end = sorted.begin() + last;
  for (size_t depth = 1; begin != end; ++depth) {  // all between begin and end agree with the text in `depth` bytes
    while (begin != end && begin->text.size() == depth) {
      if (out.empty() || out.back()->text.size() != depth) out.push_back(&*begin);
      ++begin;
    }
    if (at + depth >= text.size()) return;
    const auto byte = static_cast<uint8_t>(text[at + depth]);
    const auto byte_of = [depth](const Entry& entry) { return static_cast<uint8_t>(entry.text[depth]); };
    begin = std::partition_point(begin, end, [&](const Entry& entry) { return byte_of(entry) < byte; });
    end = std::partition_point(begin, end, [&](const Entry& entry) { return byte_of(entry) == byte; });
  }
}

std::vector<AddedTokens::Found> AddedTokens::find(std::string_view text, const AddedSearch& search) const {
  std::vector<Found> out;
  std::vector<const Entry*> fitting;
  size_t free = 0;  // nothing before it may be taken
  for (size_t at = 0; at < text.size();) {
    contents_.prefixes(text, at, fitting);
    const auto match = std::find_if(fitting.rbegin(), fitting.rend(), [&](const Entry* entry) {
      const AddedToken& token = *entry->token;
      const size_t end = at + token.content.size();
      if (token.id >= search.below) return false;
      if (token.special && (!search.parse_special || is_broken(search, at, end))) return false;
      return !token.single_word || !is_within_a_word(text, at, end);
    });
    if (match == fitting.rend()) {
      ++at;
      continue;
    }
    const AddedToken& token = *(*match)->token;
    size_t begin = at, end = at + token.content.size();
    while (token.strip_left && begin > free && is_space_at(text, character_before(text, begin))) begin = character_before(text, begin);
    while (token.strip_right && end < text.size() && is_space_at(text, end)) end += utf8_length(text, end);
    out.push_back({begin, end, &token});
    at = free = end;
  }
  return out;
}

std::vector<size_t> AddedTokens::find_special(std::string_view text) const {
  std::vector<size_t> out;
  std::vector<const Entry*> fitting;
  for (size_t at = 0; at < text.size(); ++at) {
    cores_.prefixes(text, at, fitting);
    if (!fitting.empty()) out.push_back(at);
  }
  return out;
}

}  // namespace tq
