#include "run/page_pool.h"

#include "base/check.h"

namespace tq {

PagePool::PagePool(int64_t pages, int64_t page_tokens) : page_tokens_(page_tokens), page_(static_cast<size_t>(pages)) {
  for (int64_t page = pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

std::optional<int32_t> PagePool::take() {
  int32_t page = 0;
  if (!free_.empty()) {
    page = free_.back();
    free_.pop_back();
  } else if (!kept_.empty()) {
    page = kept_.front();
    kept_.pop_front();
    Page& own = page_[static_cast<size_t>(page)];
    published_.erase(own.entry);
    own.prefix = 0;
  } else {
    return std::nullopt;
  }
  page_[static_cast<size_t>(page)].references = 1;
  return page;
}

void PagePool::release(int32_t page) {
  Page& own = page_[static_cast<size_t>(page)];
  TQ_CHECK(own.references > 0);
  if (--own.references > 0) return;
  if (own.prefix == 0) free_.push_back(page);
  else own.kept = kept_.insert(kept_.end(), page);
}

std::optional<PagePool::Found> PagePool::find(Prefix before, std::span<const TokenId> tokens) {
  const auto found = published_.find({before, {tokens.begin(), tokens.end()}});
  if (found == published_.end()) return std::nullopt;
  Page& own = page_[static_cast<size_t>(found->second)];
  if (own.references++ == 0) kept_.erase(own.kept);
  return Found{found->second, own.prefix};
}

PagePool::Prefix PagePool::publish(int32_t page, Prefix before, std::span<const TokenId> tokens) {
  TQ_CHECK(static_cast<int64_t>(tokens.size()) == page_tokens_);
  Page& own = page_[static_cast<size_t>(page)];
  TQ_CHECK(own.references > 0 && own.prefix == 0);
  const auto [entry, is_new] = published_.try_emplace({before, {tokens.begin(), tokens.end()}}, page);
  if (!is_new) return page_[static_cast<size_t>(entry->second)].prefix;
  own.prefix = next_prefix_++;
  own.entry = entry;
  return own.prefix;
}

}  // namespace tq
