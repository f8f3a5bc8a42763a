// Divergence from the original, measured, of models that differ from a base model in some linears.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "graph/network.h"
#include "quantize/allocation_plan.h"

namespace tq {

class Trials {
 public:
  // Runs original and base over the sequences, all of equal length, and keeps the base's hidden states before every layer, or before those
  // of `starts`: the layers that the models to come change first, for one that changes none the number of layers. Empty: any.
  // Models, backend and context must outlive it. Errors: a tensor that the backend cannot multiply; kNoResource; kInterrupted.
  static Result<Trials> create(const Model& original, const Model& base, Backend& backend, const Context& context,
                               std::span<const std::vector<int32_t>> sequences, int64_t stride = kTrialStride,
                               const std::set<int64_t>& starts = {});

  // KL of the base model with these tensors instead, by name with ".weight", in nats a token over every stride-th position. Only the layers
  // from the first changed one on are run.
  using Changes = std::map<std::string, const PackedTensor*>;
  Result<double> divergence(const Changes& changes);

 private:
  Trials(const Model& original, const Model& base, Backend& backend, const Context& context)
      : original_(&original), variant_(base), backend_(&backend), context_(&context), workspace_(backend) {}
  int64_t together() const;  // sequences that take a layer at once
  Status reserve();          // what layers and logits may need
  std::set<int64_t> changed_layers(const Changes& changes) const;
  Status advance(const Model& model, int64_t layer, float* hidden);
  Status advance_changed(const Changes& changes, int64_t layer, float* hidden);
  const float* every_stride(const float* states, int64_t first, int64_t count);
  Result<double> measure(const float* hidden);

  const Model* original_;
  Model variant_;  // the base, changed during a call
  Backend* backend_;
  const Context* context_;
  int64_t sequences_ = 0, length_ = 0, stride_ = kTrialStride;
  std::map<int64_t, Memory> states_;  // of the base before layers, and after the last, [sequences, T, H]
  Memory reference_;                  // of the original after the last
  Workspace workspace_;
};

}  // namespace tq
