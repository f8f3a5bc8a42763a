#include "run/page_pool.h"

#include <algorithm>

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

void PagePool::add_reference(int32_t page) {
  Page& own = page_[static_cast<size_t>(page)];
  if (own.references++ == 0) kept_.erase(own.kept);
}

std::optional<PagePool::Found> PagePool::find(Prefix before, std::span<const TokenId> tokens) {
  const auto found = published_.find({before, {tokens.begin(), tokens.end()}});
  if (found == published_.end()) return std::nullopt;
  add_reference(found->second);
  return Found{found->second, page_[static_cast<size_t>(found->second)].prefix};
}

// In their order, those that agree the longest stand right before or behind the tokens.
std::optional<PagePool::Alike> PagePool::find_alike(Prefix before, std::span<const TokenId> tokens) {
  Alike best{0, 0};
  const auto look = [&](const auto& entry) {
    const auto& [prefix, stored] = entry.first;
    if (prefix != before) return;
    const auto end = std::mismatch(tokens.begin(), tokens.end(), stored.begin(), stored.end()).first;
    if (end - tokens.begin() > best.tokens) best = {entry.second, end - tokens.begin()};
  };
  const auto behind = published_.lower_bound({before, {tokens.begin(), tokens.end()}});
  if (behind != published_.end()) look(*behind);
  if (behind != published_.begin()) look(*std::prev(behind));
  if (best.tokens == 0) return std::nullopt;
  add_reference(best.page);
  return best;
}

PagePool::Prefix PagePool::publish(int32_t page, Prefix before, std::span<const TokenId> tokens) {
  TQ_CHECK(!tokens.empty() && static_cast<int64_t>(tokens.size()) <= page_tokens_);
  Page& own = page_[static_cast<size_t>(page)];
  TQ_CHECK(own.references > 0 && own.prefix == 0);
  const auto [entry, is_new] = published_.try_emplace({before, {tokens.begin(), tokens.end()}}, page);
  if (!is_new) return page_[static_cast<size_t>(entry->second)].prefix;
  own.prefix = next_prefix_++;
  own.entry = entry;
  return own.prefix;
}

}  // namespace tq
