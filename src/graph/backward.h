// The backward pass: gradients of a loss through one layer, or through the head, of whole sequences. A walker of ModelSpec.
// The forward pass is recomputed: beside the layer's input nothing of it needs to be kept. Float activations on decoded weights.
#pragma once

#include <functional>
#include <span>

#include "graph/forward.h"
#include "graph/mixture.h"
#include "kernels/training.h"

namespace tq {

// What a linear read, and the loss's gradient by what it wrote. dL/dW = gradient^T · input, dL/dbias = its column sums.
struct LinearGradient {
  const Linear& linear;
  int64_t expert = 0;               // of a stack
  const float* input = nullptr;     // [tokens, in]
  const float* gradient = nullptr;  // [tokens, out]
  int64_t tokens = 0;
  std::span<const int32_t> positions;  // of these tokens in the sequence, ascending; empty: 0 to tokens - 1
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

// Memory of the host by slots; each grows once, then stays.
class Slots {
 public:
  // A region of `count` floats; valid until the slot is asked for more.
  float* floats(size_t slot, int64_t count);

 private:
  std::vector<Buffer<float>> slots_;
};

// Memory of a backward pass.
struct BackwardWorkspace {
  struct BlockTrace {
    Slots values;
    std::vector<Routes> routes;  // of a mixture
    std::vector<Slots> experts;
  };
  std::vector<BlockTrace> blocks;
  Slots shared;
};

struct BackwardArgs {
  const float* input = nullptr;  // [T, H], the hidden states before the layer
  float* gradient = nullptr;     // [T, H], by the hidden states after the layer; becomes that by `input`
  int64_t tokens = 0;            // a whole sequence
  KvView kv;                     // of this layer, kF32, for `tokens` positions: scratch
  const GradientSinks* sinks = nullptr;
};
// Errors: kFailed with the name of the linear at whose output a gradient is no finite number. The backend must have training operations.
Status backward_layer(const ModelSpec& spec, int64_t layer, const LayerWeights& weights, Backend& backend, const BackwardArgs& args,
                      BackwardWorkspace& workspace);

// Logits of consecutive tokens, for a loss to be computed.
struct LossChunk {
  int64_t first = 0, tokens = 0;  // tokens [first, first + tokens) of the sequence
  const float* logits = nullptr;  // [tokens, V], after the final softcap
  float* gradient = nullptr;      // [tokens, V]: to be filled with the loss's gradient by the logits
  double* loss = nullptr;         // [tokens]: to be filled
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
