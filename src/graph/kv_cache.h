// Memory of keys and values for one sequence.
#pragma once

#include "kernels/backend.h"
#include "model/spec.h"

namespace tq {

// Bytes that `capacity` positions take over all layers.
uint64_t kv_cache_bytes(const ModelSpec& spec, KvType type, int64_t capacity);

class KvCache {
 public:
  // Layers [first_layer, last_layer), in the backend's memory; the host's is touched only as positions are stored.
  // Errors: kNoResource when the machine refuses the memory.
  static Result<KvCache> create(Backend& backend, const ModelSpec& spec, KvType type, int64_t capacity, int64_t first_layer,
                                int64_t last_layer);
  static Result<KvCache> create(Backend& backend, const ModelSpec& spec, KvType type, int64_t capacity) {
    return create(backend, spec, type, capacity, 0, spec.layers_count());
  }

  int64_t capacity() const { return capacity_; }
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
