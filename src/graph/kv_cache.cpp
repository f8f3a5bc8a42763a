#include "graph/kv_cache.h"

#include <bit>

namespace tq {
namespace {

// Of a layer's keys, or of its values.
uint64_t side_bytes(const Attention& attention, KvType type, int64_t positions) {
  return static_cast<uint64_t>(attention.kv_heads * positions) * static_cast<uint64_t>(kv_row_bytes(type, attention.head_dim));
}

int64_t pages_for(int64_t positions, int64_t page_tokens) { return (positions + page_tokens - 1) / page_tokens; }

// Of all these layers; 0: they differ.
int64_t common_heads(const ModelSpec& spec, int64_t first_layer, int64_t last_layer) {
  int64_t heads = 0;
  for (int64_t i = first_layer; i < last_layer; ++i) {
    const int64_t own = attention_of(spec.layers[static_cast<size_t>(i)]).kv_heads;
    if (i > first_layer && own != heads) return 0;
    heads = own;
  }
  return heads;
}

}  // namespace

const Attention& attention_of(const std::vector<Block>& layer) {
  for (const Block& block : layer)
    if (const auto* attention = std::get_if<Attention>(&block.op)) return *attention;
  TQ_CHECK(!"a layer without attention");
  __builtin_unreachable();
}

uint64_t kv_page_bytes(const ModelSpec& spec, KvType type, int64_t page_tokens) {
  uint64_t total = 0;
  for (const auto& layer : spec.layers) total += 2 * side_bytes(attention_of(layer), type, page_tokens);
  return total;
}

uint64_t kv_cache_bytes(const ModelSpec& spec, KvType type, int64_t capacity) {
  return kv_page_bytes(spec, type) * static_cast<uint64_t>(pages_for(capacity, kPageTokens));
}

Result<KvCache> KvCache::create(Backend& backend, const ModelSpec& spec, KvType type, int64_t capacity, int64_t first_layer,
                                int64_t last_layer) {
  return create(backend, spec, {.type = type, .pages = pages_for(capacity, kPageTokens), .capacity = capacity}, first_layer, last_layer);
}

Result<KvCache> KvCache::create(Backend& backend, const ModelSpec& spec, const KvCacheSize& size, int64_t first_layer, int64_t last_layer) {
  TQ_CHECK(size.pages > 0 && size.capacity > 0 && first_layer >= 0 && last_layer <= spec.layers_count());
  TQ_CHECK(std::has_single_bit(static_cast<uint64_t>(size.page_tokens)));
  const int64_t positions = size.pages * size.page_tokens;
  KvCache cache;
  cache.capacity_ = size.capacity;
  cache.first_layer_ = first_layer;
  uint64_t total = 0;
  for (int64_t i = first_layer; i < last_layer; ++i)
    total += 2 * side_bytes(attention_of(spec.layers[static_cast<size_t>(i)]), size.type, positions);
  const int64_t kv_heads = common_heads(spec, first_layer, last_layer);
  auto memory = kv_heads > 0 ? backend.allocate_heads(total, kv_heads) : backend.allocate(total);
  if (!memory)
    return fail(ErrorCode::kNoResource, "no {:.2f} GB of memory for the keys and values of {} tokens; ask for a shorter context",
                static_cast<double>(total) / 1e9, positions);
  cache.memory_ = std::move(*memory);
  std::byte* next = cache.memory_.as<std::byte>();
  for (int64_t i = first_layer; i < last_layer; ++i) {
    const Attention& attention = attention_of(spec.layers[static_cast<size_t>(i)]);
    const uint64_t side = side_bytes(attention, size.type, positions);
    cache.views_.push_back({size.type, next, next + side, attention.kv_heads, size.capacity, attention.head_dim, size.page_tokens});
    next += 2 * side;
  }
  return cache;
}

void KvCache::copy_page(Backend& backend, int32_t from, int32_t to) const {
  for (const KvView& view : views_) {
    const int64_t bytes = view.kv_heads * view.page_tokens * kv_row_bytes(view.type, view.head_dim);
    for (std::byte* side : {view.key, view.value}) backend.copy(side + to * bytes, side + from * bytes, static_cast<uint64_t>(bytes));
  }
}

}  // namespace tq
