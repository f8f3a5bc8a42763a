// Training operations: the gradients of a backend's operations (backend.h), one struct of arguments each. kernels/ref is their oracle.
// "Gradient" is that of one scalar, the loss. Float throughout: float activations on float weights, quantized matrices as they decode.
// Row-major; T tokens, R rows (out), C columns (in), V vocabulary. Results don't depend on the number of threads.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"

namespace tq {

// input_gradient[T, C] = gradient[T, R] · W[R, C]
struct LinearBackwardArgs {
  const Matrix* matrix = nullptr;   // prepared by the same backend
  const float* gradient = nullptr;  // [T, R], of the output
  float* input_gradient = nullptr;  // [T, C]
  int64_t tokens = 0;
  bool accumulate = false;  // add to input_gradient instead
};

// weight_gradient[rows, C] += gradient[:, first_row .. + rows]^T · input[T, C]: a band of dL/dW in the original basis.
struct WeightGradientArgs {
  const float* input = nullptr;      // [T, C]
  const float* gradient = nullptr;   // [T, all_rows], of the output
  float* weight_gradient = nullptr;  // [rows, C]
  int64_t tokens = 0, columns = 0, all_rows = 0, first_row = 0, rows = 0;
};

// Of NormArgs. With r = 1 / sqrt(mean(x^2) + epsilon), w = weight + offset, g the output's gradient:
// dx = r g w - x r^3 / width * sum(g w x), dw = sum over count of g x r.
struct NormBackwardArgs {
  const float* input = nullptr;      // [count, width], what the norm read
  const float* weight = nullptr;     // [width]
  const float* gradient = nullptr;   // [count, width], of the output
  float* input_gradient = nullptr;   // [count, width]; may be `gradient`
  float* weight_gradient = nullptr;  // [width], added to; or null
  int64_t count = 0, width = 0;
  float epsilon = 0.0f, offset = 0.0f;
};

// Causal attention of whole sequences from position 0, as AttendArgs computes it over unrounded keys and values. The gradients have the
// layout of what they belong to; those of key and value are overwritten.
struct AttendBackwardArgs {
  const float* query = nullptr;     // [T, heads, head_dim], rows query_stride floats apart
  const float* key = nullptr;       // [T, kv_heads, head_dim], rows key_stride floats apart
  const float* value = nullptr;     // likewise
  const float* gradient = nullptr;  // [T, heads * head_dim], of the output
  float* query_gradient = nullptr;
  float* key_gradient = nullptr;
  float* value_gradient = nullptr;
  int64_t tokens = 0, heads = 0, kv_heads = 0, head_dim = 0, query_stride = 0, key_stride = 0;
  int64_t window = 0;
  float scale = 1.0f, softcap = 0.0f;
};

// Of GatedArgs: output = activation(gate) * up.
struct GatedBackwardArgs {
  GateKind kind = GateKind::kSilu;
  const float* gate = nullptr;      // [T, width], rows `stride` floats apart
  const float* up = nullptr;        // likewise
  const float* gradient = nullptr;  // [T, width], of the output
  float* gate_gradient = nullptr;   // [T, width], rows `stride` floats apart
  float* up_gradient = nullptr;     // likewise
  int64_t tokens = 0, width = 0, stride = 0;
};

// loss[t] = -log softmax(logits[t])[label[t]]; a label of -1 is ignored (loss and gradient 0). gradient may be logits.
struct CrossEntropyArgs {
  const float* logits = nullptr;  // [T, V]
  std::span<const int32_t> labels;
  float* gradient = nullptr;  // [T, V], of the sum of the losses by the logits
  double* loss = nullptr;     // [T]
  int64_t vocabulary = 0;
};

// loss[t] = KL(softmax(reference[t]) || softmax(logits[t])). gradient may be logits.
struct DivergenceArgs {
  const float* logits = nullptr;     // [T, V]
  const float* reference = nullptr;  // [T, V]
  float* gradient = nullptr;         // [T, V], of the sum of the losses by the logits
  double* loss = nullptr;            // [T]
  int64_t tokens = 0, vocabulary = 0;
};

// label[t]: the token at which the cumulated softmax(logits[t]) passes uniform[t] in [0, 1).
struct SampleArgs {
  const float* logits = nullptr;    // [T, V]
  std::span<const double> uniform;  // [T]
  int32_t* label = nullptr;         // [T]
  int64_t vocabulary = 0;
};

class Training {
 public:
  virtual ~Training() = default;
  virtual void linear(const LinearBackwardArgs& args) = 0;
  virtual void weight(const WeightGradientArgs& args) = 0;
  virtual void norm(const NormBackwardArgs& args) = 0;
  // The transposed rotation of gradients, in place: RotaryArgs of the forward pass with `values` the gradient.
  virtual void rotary(const RotaryArgs& args) = 0;
  virtual void attend(const AttendBackwardArgs& args) = 0;
  virtual void gated(const GatedBackwardArgs& args) = 0;
  virtual void cross_entropy(const CrossEntropyArgs& args) = 0;
  virtual void divergence(const DivergenceArgs& args) = 0;
  virtual void sample(const SampleArgs& args) = 0;
};

}  // namespace tq
