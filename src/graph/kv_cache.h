// Memory of keys and values, in pages of a fixed number of positions. A sequence has the pages that its Stretch names; a cache made for one
// sequence has them in order.
#pragma once

#include "kernels/backend.h"
#include "model/spec.h"

namespace tq {

// Bytes that a page takes over all layers; a cache takes as much for each and nothing else.
uint64_t kv_page_bytes(const ModelSpec& spec, KvType type, int64_t page_tokens = kPageTokens);
// Bytes of the pages that `capacity` positions need.
uint64_t kv_cache_bytes(const ModelSpec& spec, KvType type, int64_t capacity);

struct KvCacheSize {
  KvType type = KvType::kF16;
  int64_t pages = 0;
  int64_t page_tokens = kPageTokens;  // a power of two
  int64_t capacity = 0;               // positions that a sequence may have
};

class KvCache {
 public:
  // Layers [first_layer, last_layer), in the backend's memory; the host's is touched only as positions are stored.
  // Errors: kNoResource when the machine refuses the memory.
  static Result<KvCache> create(Backend& backend, const ModelSpec& spec, const KvCacheSize& size, int64_t first_layer, int64_t last_layer);
  static Result<KvCache> create(Backend& backend, const ModelSpec& spec, const KvCacheSize& size) {
    return create(backend, spec, size, 0, spec.layers_count());
  }
  // For one sequence.
  static Result<KvCache> create(Backend& backend, const ModelSpec& spec, KvType type, int64_t capacity, int64_t first_layer,
                                int64_t last_layer);
  static Result<KvCache> create(Backend& backend, const ModelSpec& spec, KvType type, int64_t capacity) {
    return create(backend, spec, type, capacity, 0, spec.layers_count());
  }

  int64_t capacity() const { return capacity_; }
  // All that a page holds, into another.
  void copy_page(Backend& backend, int32_t from, int32_t to) const;
  KvView layer(int64_t layer) const { return views_[static_cast<size_t>(layer - first_layer_)]; }

 private:
  KvCache() = default;
  Memory memory_;
  std::vector<KvView> views_;  // a view per layer
  int64_t capacity_ = 0, first_layer_ = 0;
};

// The attention of a layer (every layer has one).
const Attention& attention_of(const std::vector<Block>& layer);

}  // namespace tq
