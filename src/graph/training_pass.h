// Gradients of a whole model: a wave of sequences forward, the loss, and back, one layer's weights and activations at a time. Only the
// hidden states before every layer are kept, in the backend's memory, and of the last layers everything, as far as memory allows.
#pragma once

#include "base/context.h"
#include "graph/backward.h"

namespace tq {

// What layers keep of their way forward, so that they need not go it again on the way back. Memory that one pass leaves to the next.
using KeptTraces = std::vector<std::vector<BackwardWorkspace::BlockTrace>>;  // [layers * sequences][blocks]

struct TrainingPassArgs {
  std::span<const std::vector<int32_t>> sequences;  // of tokens, all of equal length
  std::function<void(int64_t sequence, const LossChunk&)> loss;
  std::function<void(int64_t sequence, const LinearGradient&)> linear;  // layer by layer from the last; within a layer by sequence
  std::function<void(const NormGradient&)> norm;
  std::function<void(int64_t sequence, const float* gradient)> embedded;  // [T, H], by the embedded tokens. These three may be empty.
  const TrainableModel* weights = nullptr;                                // of the model, or null: prepared layer by layer
  KeptTraces* traces = nullptr;                                           // or null: of this pass alone
};

// Bytes that the hidden states of one sequence take.
uint64_t training_bytes(const ModelSpec& spec, int64_t length);

// The first of the layers that are kept whole, so many as fit into 2 GiB of the host's memory; none of a device's, none with a mixture.
int64_t first_kept_layer(const ModelSpec& spec, int64_t tokens, bool is_host);
uint64_t kept_trace_bytes(const ModelSpec& spec, int64_t tokens);  // of the host's

// The sum of the losses. Errors: those of preparing the weights, a gradient that is no finite number (by the linear's name),
// a backend without training operations, kInterrupted.
Result<double> training_pass(const Model& model, Backend& backend, const Context& context, const TrainingPassArgs& args);

// The hidden states after the last layer, [sequences, T, H], in the backend's memory: what a reference for a divergence is made from.
Result<Memory> final_hidden(const Model& model, Backend& backend, const Context& context, std::span<const std::vector<int32_t>> sequences,
                            const TrainableModel* weights = nullptr);

}  // namespace tq
