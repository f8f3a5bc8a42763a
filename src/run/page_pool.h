// Which pages of a KvCache are whose. Pages are counted by reference, and found again by what stands in them.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "token/tokenizer.h"

namespace tq {

// A page whose last reference goes stays known if it was published, until a page is needed and no other is free: the one released longest
// ago goes first.
class PagePool {
 public:
  // A beginning that ends with a full page: everything before it and the page's tokens. Equal beginnings have equal numbers, others others.
  using Prefix = uint64_t;

  PagePool(int64_t pages, int64_t page_tokens);

  int64_t pages() const { return static_cast<int64_t>(page_.size()); }
  int64_t page_tokens() const { return page_tokens_; }
  // Pages that take() would give.
  int64_t available() const { return static_cast<int64_t>(free_.size() + kept_.size()); }
  int64_t in_use() const { return pages() - available(); }

  // The empty beginning. Keys that were rotated in another way are those of another kind of sequence.
  static Prefix root(int kind) { return static_cast<Prefix>(kind); }
  // One reference to a page of unknown content; none when all are in use.
  std::optional<int32_t> take();
  void release(int32_t page);

  struct Found {
    int32_t page;
    Prefix prefix;
  };
  // One reference more to the page that holds these page_tokens tokens after this beginning.
  std::optional<Found> find(Prefix before, std::span<const TokenId> tokens);
  struct Alike {
    int32_t page;
    int64_t tokens;  // that agree, from the first on; at least one
  };
  // One reference more to the page, full or not, whose tokens after this beginning agree with these the longest.
  std::optional<Alike> find_alike(Prefix before, std::span<const TokenId> tokens);
  // The page, which the caller has a reference to, holds these tokens after this beginning; a page that is not full will not be written to
  // any more. Where another page holds them already, that one stays the one to be found. Returns the beginning that ends here.
  Prefix publish(int32_t page, Prefix before, std::span<const TokenId> tokens);

 private:
  static constexpr Prefix kFirstPrefix = 16;  // behind the roots
  using Key = std::pair<Prefix, std::vector<TokenId>>;
  struct Page {
    int64_t references = 0;
    Prefix prefix = 0;  // 0: not published
    std::map<Key, int32_t>::iterator entry;
    std::list<int32_t>::iterator kept;  // where references are 0 and it is published
  };
  void add_reference(int32_t page);

  int64_t page_tokens_;
  std::vector<Page> page_;
  std::vector<int32_t> free_;
  std::list<int32_t> kept_;  // released longest ago first
  std::map<Key, int32_t> published_;
  Prefix next_prefix_ = kFirstPrefix;
};

}  // namespace tq
