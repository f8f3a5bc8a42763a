// The kernels of training on the device: every function enqueues on the stream. Pointers are the device's; letters and meaning as in
// kernels/training.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

// Value by value.
struct GatedBack {
  int kind = 0;  // GateKind
  const float* gate = nullptr;
  const float* up = nullptr;
  const float* gradient = nullptr;
  float* gate_gradient = nullptr;
  float* up_gradient = nullptr;
  int64_t tokens = 0, width = 0, stride = 0;
};
struct AdamStep {
  float* value = nullptr;
  float* gradient = nullptr;
  float* first = nullptr;
  float* second = nullptr;
  int64_t count = 0;
  float rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, gradient_scale = 1;
  float correct1 = 1, correct2 = 1;  // 1 / (1 - beta^step)
};
void gated_back(const GatedBack& args, cudaStream_t stream);
void adam(const AdamStep& args, cudaStream_t stream);
void softcap_back(const float* output, float* gradient, int64_t count, float cap, cudaStream_t stream);
void scale_rows(float* values, const float* factor, int64_t count, int64_t columns, cudaStream_t stream);

// Sums; in a fixed order.
struct NormBack {
  const float* input = nullptr;
  const float* weight = nullptr;
  const float* gradient = nullptr;
  float* input_gradient = nullptr;
  float* weight_gradient = nullptr;  // or null
  float* root = nullptr;             // [count], scratch of the weight's gradient
  int64_t count = 0;
  int width = 0;
  float epsilon = 0, offset = 0;
};
struct SquaredError {
  const float* output = nullptr;
  const float* target = nullptr;
  const float* weight = nullptr;  // or null
  float* gradient = nullptr;
  double* loss = nullptr;  // [T], overwritten
  int64_t tokens = 0, width = 0;
  float scale = 1;
};
// Of gradient [T, R].
struct RowSums {
  const float* gradient = nullptr;
  const float* output = nullptr;  // of the row scales alone
  const float* bias = nullptr;    // or null
  float* sum = nullptr;           // [R], added to
  int64_t tokens = 0;
  int rows = 0;
};
struct TokenSquares {
  const float* gradient = nullptr;
  float* token = nullptr;   // [T] or null
  int32_t* flag = nullptr;  // set to 1 where a value is no finite number; or null
  int64_t tokens = 0;
  int rows = 0;
};
void norm_back(const NormBack& args, cudaStream_t stream);
void squared_error(const SquaredError& args, cudaStream_t stream);
void row_scale_gradient(const RowSums& args, cudaStream_t stream);
void column_sum(const RowSums& args, cudaStream_t stream);
void row_squares(const RowSums& args, cudaStream_t stream);
void token_squares(const TokenSquares& args, cudaStream_t stream);
constexpr int kDotBlocks = 256;
void dot(const float* a, const float* b, int64_t count, double* partial, cudaStream_t stream);  // partial: [kDotBlocks]

// Losses, one thread block a row of logits.
struct CrossEntropy {
  const float* logits = nullptr;
  const int32_t* label = nullptr;
  float* gradient = nullptr;
  double* loss = nullptr;
  int64_t tokens = 0;
  int vocabulary = 0;
};
struct KlDivergence {
  const float* logits = nullptr;
  const float* reference = nullptr;
  float* gradient = nullptr;
  double* loss = nullptr;
  int64_t tokens = 0;
  int vocabulary = 0;
};
struct Draws {
  const float* logits = nullptr;
  const double* uniform = nullptr;
  int32_t* label = nullptr;
  int64_t tokens = 0;
  int vocabulary = 0;
};
void cross_entropy(const CrossEntropy& args, cudaStream_t stream);
void divergence(const KlDivergence& args, cudaStream_t stream);
void sample(const Draws& args, cudaStream_t stream);

// Rows of heads: [count, kv_heads * group, dim], tokens `stride` floats apart, and the same gathered by kv head, [kv_heads, count * group,
// dim].
struct HeadRows {
  int count = 0, kv_heads = 0, group = 0, dim = 0;
  int64_t stride = 0;
};
void gather_heads(const HeadRows& rows, const float* apart, float* gathered, cudaStream_t stream);
void scatter_heads(const HeadRows& rows, const float* gathered, float* apart, cudaStream_t stream);

// A tile of scores: for every head, `count` queries from `first` on against `width` keys from `begin` on; [kv_heads, count, group, width].
struct ScoreTile {
  float* weight = nullptr;  // products q k become softmax weights; zeros where a query does not see
  float* slope = nullptr;   // gradients of the weights become those of the scores before scale
  int64_t first = 0, begin = 0;
  int heads = 0, group = 0, count = 0, width = 0, window = 0;
  float scale = 1, softcap = 0;
};
void differentiate_scores(const ScoreTile& tile, cudaStream_t stream);

// Gradients [T, C] in the rotated basis of a matrix of planes, back to the original one: output = (or +=) sign * Had(input).
struct Unrotate {
  const float* input = nullptr;
  float* output = nullptr;
  const uint8_t* sign = nullptr;  // packed
  int tokens = 0, columns = 0, hadamard = 0;
  bool accumulate = false;
};
void unrotate(const Unrotate& args, cudaStream_t stream);
void count_up(int32_t* values, int count, int first, cudaStream_t stream);  // values[i] = first + i

}  // namespace tq::cuda
