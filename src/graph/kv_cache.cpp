#include "graph/kv_cache.h"

namespace tq {
namespace {

constexpr uint64_t kAlign = 64;

uint64_t side_bytes(const Attention& attention, KvType type, int64_t capacity) {
  const auto rows = static_cast<uint64_t>(attention.kv_heads) * static_cast<uint64_t>(capacity);
  const uint64_t bytes = rows * static_cast<uint64_t>(kv_row_bytes(type, attention.head_dim));
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

}  // namespace

const Attention& attention_of(const std::vector<Block>& layer) {
  for (const Block& block : layer)
    if (const auto* attention = std::get_if<Attention>(&block.op)) return *attention;
  TQ_CHECK(!"a layer without attention");
  __builtin_unreachable();
}

uint64_t kv_cache_bytes(const ModelSpec& spec, KvType type, int64_t capacity) {
  uint64_t total = 0;
  for (const auto& layer : spec.layers) total += 2 * side_bytes(attention_of(layer), type, capacity);
  return total;
}

Result<KvCache> KvCache::create(Backend& backend, const ModelSpec& spec, KvType type, int64_t capacity, int64_t first_layer,
                                int64_t last_layer) {
  TQ_CHECK(capacity > 0 && first_layer >= 0 && last_layer <= spec.layers_count());
  KvCache cache;
  cache.capacity_ = capacity;
  cache.first_layer_ = first_layer;
  uint64_t total = kAlign;
  for (int64_t i = first_layer; i < last_layer; ++i)
    total += 2 * side_bytes(attention_of(spec.layers[static_cast<size_t>(i)]), type, capacity);
  auto memory = backend.allocate(total);
  if (!memory)
    return fail(ErrorCode::kNoResource, "no {:.2f} GB of memory for the keys and values of {} tokens; ask for a shorter context",
                static_cast<double>(total) / 1e9, capacity);
  cache.memory_ = std::move(*memory);
  std::byte* next = cache.memory_.as<std::byte>();
  for (int64_t i = first_layer; i < last_layer; ++i) {
    const Attention& attention = attention_of(spec.layers[static_cast<size_t>(i)]);
    const uint64_t side = side_bytes(attention, type, capacity);
    cache.views_.push_back({type, next, next + side, attention.kv_heads, capacity, attention.head_dim});
    next += 2 * side;
  }
  return cache;
}

}  // namespace tq
