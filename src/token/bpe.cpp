// Byte-pair merging (Sennrich et al. 2016): always the best pair, the leftmost of equals. O(n log n).
#include <queue>

#include "token/tokenizer_impl.h"
#include "token/utf8.h"

namespace tq {
namespace {

struct Node {
  TokenId id;
  int32_t previous, next;
};

struct Candidate {
  int32_t rank, left;  // positions of the first symbols
  TokenId left_id, right_id, merged;

  bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
};

}  // namespace

uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

void merge_symbols(const std::unordered_map<uint64_t, Merge>& merges, std::vector<TokenId>& symbols) {
  const auto count = static_cast<int32_t>(symbols.size());
  if (count < 2) return;
  std::vector<Node> nodes(symbols.size());
  for (int32_t i = 0; i < count; ++i) nodes[static_cast<size_t>(i)] = {symbols[static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1};
  std::priority_queue<Candidate> queue;
  const auto consider = [&](int32_t left) {
    const Node& a = nodes[static_cast<size_t>(left)];
    if (a.next < 0 || a.id < 0) return;
    const Node& b = nodes[static_cast<size_t>(a.next)];
    if (b.id < 0) return;
    const auto found = merges.find(pair_key(a.id, b.id));
    if (found != merges.end()) queue.push({found->second.rank, left, a.id, b.id, found->second.id});
  };
  for (int32_t i = 0; i + 1 < count; ++i) consider(i);
  std::vector<bool> is_gone(symbols.size());
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Node& left = nodes[static_cast<size_t>(best.left)];
    if (is_gone[static_cast<size_t>(best.left)] || left.id != best.left_id || left.next < 0) continue;
    const Node right = nodes[static_cast<size_t>(left.next)];
    if (right.id != best.right_id) continue;
    is_gone[static_cast<size_t>(left.next)] = true;
    left.id = best.merged;
    left.next = right.next;
    if (right.next >= 0) nodes[static_cast<size_t>(right.next)].previous = best.left;
    consider(best.left);
    if (left.previous >= 0) consider(left.previous);
  }
  symbols.clear();
  for (int32_t i = 0; i >= 0; i = nodes[static_cast<size_t>(i)].next) symbols.push_back(nodes[static_cast<size_t>(i)].id);
}

const std::array<std::string, 256>& byte_characters() {
  static const std::array<std::string, 256> kTable = [] {
    std::array<std::string, 256> table;
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool is_printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
      utf8_append(table[byte], is_printable ? byte : next++);
    }
    return table;
  }();
  return kTable;
}

std::string bytes_of_characters(std::string_view text) {
  static const std::unordered_map<std::string, char> kBytes = [] {
    std::unordered_map<std::string, char> map;
    for (size_t byte = 0; byte < 256; ++byte) map[byte_characters()[byte]] = static_cast<char>(byte);
    return map;
  }();
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t length = std::max<size_t>(1, utf8_length(text, at));
    const std::string character(text.substr(at, length));
    const auto found = kBytes.find(character);
    if (found != kBytes.end()) out += found->second;
    else out += character;
    at += length;
  }
  return out;
}

}  // namespace tq
