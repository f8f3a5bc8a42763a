// Training operations: the gradients of a backend's operations (backend.h), one struct of arguments each. kernels/ref is their oracle.
// "Gradient" is that of one scalar, the loss. Float throughout: float activations on float weights, quantized matrices as they decode.
// Row-major; T tokens, R rows (out), C columns (in), V vocabulary. Pointers are the backend's memory unless said to be the host's; a call
// that gives something to the host waits for it. Results don't depend on the number of threads.
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
  Precision precision = Precision::kFloat;  // kTraining: factors of products may be rounded, but for those of the scores
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
  const float* logits = nullptr;    // [T, V]
  std::span<const int32_t> labels;  // the host's
  float* gradient = nullptr;        // [T, V], of the sum of the losses by the logits
  double* loss = nullptr;           // [T], the host's
  int64_t vocabulary = 0;
};

// loss[t] = KL(softmax(reference[t]) || softmax(logits[t])). gradient may be logits.
struct DivergenceArgs {
  const float* logits = nullptr;     // [T, V]
  const float* reference = nullptr;  // [T, V]
  float* gradient = nullptr;         // [T, V], of the sum of the losses by the logits
  double* loss = nullptr;            // [T], the host's
  int64_t tokens = 0, vocabulary = 0;
};

// label[t]: the token at which the cumulated softmax(logits[t]) passes uniform[t] in [0, 1).
struct SampleArgs {
  const float* logits = nullptr;    // [T, V]
  std::span<const double> uniform;  // [T], the host's
  int32_t* label = nullptr;         // [T], the host's
  int64_t vocabulary = 0;
};

// loss += scale * sum_t weight_t |output_t - target_t|^2; gradient = its derivative by output, 2 scale weight_t (output_t - target_t).
struct SquaredErrorArgs {
  const float* output = nullptr;  // [T, width]
  const float* target = nullptr;  // [T, width]
  const float* weight = nullptr;  // [T], or null: 1
  float* gradient = nullptr;      // [T, width]; may be output or target
  double* loss = nullptr;         // the host's, added to; or null
  int64_t tokens = 0, width = 0;
  float scale = 1.0f;
};

// gradient *= 1 - (output / cap)^2: by what softcap() read, of output = softcap(input).
struct SoftcapBackwardArgs {
  const float* output = nullptr;  // [count]
  float* gradient = nullptr;      // [count]
  int64_t count = 0;
  float cap = 0.0f;
};

// values[r, :] *= factor[r]
struct ScaleRowsArgs {
  float* values = nullptr;        // [rows, columns]
  const float* factor = nullptr;  // [rows]
  int64_t rows = 0, columns = 0;
};

// sum[r] += sum_t gradient[t, r] * (output[t, r] - bias[r]): dL / d log(scale of row r) of output = scale_r (W x)_r + bias_r.
struct RowScaleGradientArgs {
  const float* output = nullptr;    // [T, R]
  const float* bias = nullptr;      // [R], or null: 0
  const float* gradient = nullptr;  // [T, R], of the output
  float* sum = nullptr;             // [R]
  int64_t tokens = 0, rows = 0;
};

// sum[r] += sum_t gradient[t, r]: of a bias.
struct ColumnSumArgs {
  const float* gradient = nullptr;  // [T, R]
  float* sum = nullptr;             // [R]
  int64_t tokens = 0, rows = 0;
};

// Squared gradients by tokens and by rows. All but the gradient may be null.
struct SquaresArgs {
  const float* gradient = nullptr;  // [T, R]
  float* token = nullptr;           // [T] = mean over the rows
  float* row = nullptr;             // [R] += sum over the tokens
  bool* finite = nullptr;           // the host's: whether all gradients are finite numbers
  int64_t tokens = 0, rows = 0;
};

// right[R, C] = right (matrix + ridge mean(diagonal) I)^-1: least squares by the normal equations.
struct SolveArgs {
  float* matrix = nullptr;  // [C, C] symmetric, what is below and on the diagonal; overwritten
  float* right = nullptr;   // [R, C]
  int64_t rows = 0, columns = 0;
  double ridge = 0;
};

// output[R, C] (+)= left[R, D] right[D, C]
struct DenseProductArgs {
  const float* left = nullptr;
  const float* right = nullptr;
  float* output = nullptr;
  int64_t rows = 0, columns = 0, depth = 0;
  bool accumulate = false;
};

// Adam (Kingma and Ba 2015): with g = gradient_scale * gradient, first = beta1 first + (1 - beta1) g and second likewise of g^2,
// value -= rate * first / (1 - beta1^step) / (sqrt(second / (1 - beta2^step)) + epsilon). The gradient is zeroed afterwards.
struct AdamArgs {
  float* value = nullptr;     // [count]
  float* gradient = nullptr;  // [count]
  float* first = nullptr;     // [count], zeros before the first step
  float* second = nullptr;    // [count], likewise
  int64_t count = 0;
  int64_t step = 1;  // from 1
  float rate = 0.0f, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, gradient_scale = 1.0f;
};

class Training {
 public:
  virtual ~Training() = default;
  // A matrix of any codec, decoded to floats of its own that may be changed. linear() of the backend and of this class multiply it in
  // float. expert and errors as in Backend::prepare.
  virtual Result<std::unique_ptr<Matrix>> prepare_trainable(const PackedTensor& tensor, int64_t expert = 0) = 0;
  // Those floats, [R, C] in the original basis; null for a matrix that was prepared otherwise.
  virtual float* weights(Matrix& matrix) = 0;
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
  virtual void squared_error(const SquaredErrorArgs& args) = 0;
  virtual void softcap(const SoftcapBackwardArgs& args) = 0;
  virtual void scale_rows(const ScaleRowsArgs& args) = 0;
  virtual void row_scale_gradient(const RowScaleGradientArgs& args) = 0;
  virtual void column_sum(const ColumnSumArgs& args) = 0;
  virtual void squares(const SquaresArgs& args) = 0;
  virtual void adam(const AdamArgs& args) = 0;
  virtual void product(const DenseProductArgs& args) = 0;
  // False: the matrix is not positive definite, and `right` is undefined. Errors: kNoResource.
  virtual Result<bool> solve(const SolveArgs& args) = 0;
  // a · b, to the host.
  virtual double dot(const float* a, const float* b, int64_t count) = 0;
};

}  // namespace tq
