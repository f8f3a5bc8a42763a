// The backward pass: gradients of a loss through one layer, or through the head, of whole sequences. A walker of ModelSpec.
// A layer's forward pass is computed again and traced: beside its input nothing of it needs to be kept. Float activations on decoded
// weights; all pointers are the backend's memory.
#pragma once

#include <functional>
#include <span>

#include "graph/forward.h"
#include "graph/mixture.h"
#include "kernels/training.h"

namespace tq {

// What a linear read and wrote, and the loss's gradient by what it wrote. dL/dW = gradient^T · input, dL/dbias = its column sums.
struct LinearGradient {
  const Linear& linear;
  int64_t expert = 0;               // of a stack
  const float* input = nullptr;     // [tokens, in]
  const float* output = nullptr;    // [tokens, out], with the bias; nothing done to it yet
  const float* gradient = nullptr;  // [tokens, out]
  const float* bias = nullptr;      // [out] or null
  int64_t tokens = 0;
  std::span<const int32_t> positions;  // the host's: of these tokens in the sequence, ascending; empty: 0 to tokens - 1
};

struct NormGradient {
  const Norm& norm;
  const float* weight_gradient = nullptr;  // [width], by the stored weight, summed over the sequence
};

// Called in the order of the backward pass; the pointers are valid during the call. Either may be empty.
struct GradientSinks {
  std::function<void(const LinearGradient&)> linear;
  std::function<void(const NormGradient&)> norm;
};

// Memory of a backward pass.
struct BackwardWorkspace {
  struct BlockTrace {
    explicit BlockTrace(Backend& backend) : values(backend) {}
    Workspace values;
    std::vector<Routes> routes;  // of a mixture
    std::vector<Workspace> experts;
  };
  explicit BackwardWorkspace(Backend& backend) : shared(backend) {}
  std::vector<BlockTrace> blocks;
  Workspace shared;
};

// The backend must have training operations.
struct TraceArgs {
  const float* input = nullptr;  // [T, H], the hidden states before the layer
  int64_t tokens = 0;            // a whole sequence
  KvView kv;                     // of this layer, kF32, for `tokens` positions: scratch
};
// The layer forward, with everything kept that backward_layer() needs. The hidden states after it, [T, H], in the workspace: valid until
// it is used again.
const float* trace_layer(const ModelSpec& spec, int64_t layer, const LayerWeights& weights, Backend& backend, const TraceArgs& args,
                         BackwardWorkspace& workspace);

struct BackwardArgs {
  float* gradient = nullptr;  // [T, H], by the hidden states after the layer; becomes that by those before it
  int64_t tokens = 0;
  const GradientSinks* sinks = nullptr;
};
// After trace_layer() of the same layer, weights and tokens in this workspace. Errors: kFailed with the name of the linear at whose output
// a gradient is no finite number.
Status backward_layer(const ModelSpec& spec, int64_t layer, const LayerWeights& weights, Backend& backend, const BackwardArgs& args,
                      BackwardWorkspace& workspace);

// Logits of consecutive tokens, for a loss to be computed.
struct LossChunk {
  int64_t first = 0, tokens = 0;  // tokens [first, first + tokens) of the sequence
  const float* logits = nullptr;  // [tokens, V], after the final softcap
  float* gradient = nullptr;      // [tokens, V]: to be filled with the loss's gradient by the logits
  double* loss = nullptr;         // [tokens], the host's: to be filled
};
using LossFunction = std::function<void(const LossChunk&)>;

struct HeadBackwardArgs {
  const float* hidden = nullptr;  // [T, H], after the last layer
  float* gradient = nullptr;      // [T, H]: filled with the loss's gradient by `hidden`
  int64_t tokens = 0;
  const LossFunction* loss = nullptr;
  const GradientSinks* sinks = nullptr;
};
// The sum of the losses. Logits and their gradients exist for 256 tokens at a time; the linear sink is called for each such chunk, with
// positions, the norm sink once.
Result<double> backward_head(const ModelSpec& spec, const HeadWeights& weights, Backend& backend, const HeadBackwardArgs& args,
                             BackwardWorkspace& workspace);

}  // namespace tq
