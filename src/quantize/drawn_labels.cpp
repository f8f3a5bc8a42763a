#include "quantize/drawn_labels.h"

#include <vector>

#include "base/rng.h"

namespace tq {

void DrawnLabels::loss(int64_t sequence, const LossChunk& chunk) const {
  const uint64_t stream = splitmix64(seed_ ^ splitmix64(static_cast<uint64_t>(first_sequence_ + sequence)));
  std::vector<double> uniform;
  for (int64_t t = 0; t < chunk.tokens; ++t)
    uniform.push_back(static_cast<double>(splitmix64(stream + static_cast<uint64_t>(chunk.first + t)) >> 11) * 0x1p-53);
  std::vector<int32_t> labels(uniform.size());
  backend_.training()->sample({.logits = chunk.logits, .uniform = uniform, .label = labels.data(), .vocabulary = vocabulary_});
  backend_.training()->cross_entropy(
      {.logits = chunk.logits, .labels = labels, .gradient = chunk.gradient, .loss = chunk.loss, .vocabulary = vocabulary_});
}

}  // namespace tq
