// Sums of training: over the tokens of each row, over the rows of each token, over everything. Double, in a fixed order.
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 32, kLanes = 32;  // of a block of the column kernel: neighbouring columns, tokens side by side

// sum[r] += sum over the tokens of term(t, r)
template <typename Term>
__global__ void __launch_bounds__(kColumns* kLanes) column_kernel(int64_t tokens, int rows, float* sum, const Term term) {
  launch_dependents();
  dependency_wait();
  __shared__ double parts[kLanes][kColumns + 1];
  const int column = static_cast<int>(threadIdx.x) % kColumns, lane = static_cast<int>(threadIdx.x) / kColumns;
  const int r = static_cast<int>(blockIdx.x) * kColumns + column;
  double own = 0;
  if (r < rows)
#pragma unroll 4
    for (int64_t t = lane; t < tokens; t += kLanes) own += term(t, r);
  parts[lane][column] = own;
  __syncthreads();
  if (lane > 0 || r >= rows) return;
  double all = 0;
  for (int i = 0; i < kLanes; ++i) all += parts[i][column];
  sum[r] = static_cast<float>(sum[r] + all);
}

template <typename Term>
void add_columns(int64_t tokens, int rows, float* sum, const Term& term, cudaStream_t stream) {
  launch(&column_kernel<Term>, dim3(static_cast<unsigned>((rows + kColumns - 1) / kColumns)), kColumns * kLanes, 0, stream, tokens, rows,
         sum, term);
}

struct PlainTerm {
  RowSums args;
  __device__ double operator()(int64_t t, int r) const { return args.gradient[t * args.rows + r]; }
};
struct SquareTerm {
  RowSums args;
  __device__ double operator()(int64_t t, int r) const {
    const double g = args.gradient[t * args.rows + r];
    return g * g;
  }
};
struct ScaleTerm {
  RowSums args;
  __device__ double operator()(int64_t t, int r) const {
    const int64_t at = t * args.rows + r;
    return static_cast<double>(args.gradient[at]) * (static_cast<double>(args.output[at]) - (args.bias ? args.bias[r] : 0.0f));
  }
};
struct NormTerm {
  NormBack args;
  __device__ double operator()(int64_t t, int k) const {
    const int64_t at = t * args.width + k;
    return static_cast<double>(args.gradient[at]) * args.input[at] * args.root[t];
  }
};

__global__ void __launch_bounds__(kThreads) token_squares_kernel(const TokenSquares args) {
  launch_dependents();
  dependency_wait();
  const float* row = args.gradient + blockIdx.x * static_cast<int64_t>(args.rows);
  double own = 0;
  for (int r = static_cast<int>(threadIdx.x); r < args.rows; r += kThreads) own += static_cast<double>(row[r]) * row[r];
  const double sum = block_sum<kThreads>(own);
  if (threadIdx.x > 0) return;
  if (args.token) args.token[blockIdx.x] = static_cast<float>(sum / args.rows);
  if (args.flag && !isfinite(sum)) *args.flag = 1;
}

__global__ void __launch_bounds__(kThreads) squared_error_kernel(const SquaredError args) {
  launch_dependents();
  dependency_wait();
  const int64_t token = blockIdx.x;
  const float factor = args.scale * (args.weight ? args.weight[token] : 1.0f);
  double own = 0;
  for (int64_t i = token * args.width + threadIdx.x; i < (token + 1) * args.width; i += kThreads) {
    const float difference = args.output[i] - args.target[i];
    own += static_cast<double>(difference) * difference;
    args.gradient[i] = 2.0f * factor * difference;
  }
  const double sum = block_sum<kThreads>(own);
  if (threadIdx.x == 0) args.loss[token] = factor * sum;
}

__device__ double inverse_root(const NormBack& args, double squares) { return 1.0 / sqrt(squares / args.width + args.epsilon); }

__global__ void __launch_bounds__(kThreads) norm_root_kernel(const NormBack args) {
  launch_dependents();
  dependency_wait();
  const float* x = args.input + blockIdx.x * static_cast<int64_t>(args.width);
  double own = 0;
  for (int k = static_cast<int>(threadIdx.x); k < args.width; k += kThreads) own += static_cast<double>(x[k]) * x[k];
  const double sum = block_sum<kThreads>(own);
  if (threadIdx.x == 0) args.root[blockIdx.x] = static_cast<float>(inverse_root(args, sum));
}

// dx = r g w - x r^3 / width * sum(g w x). A thread writes where it alone has read, so that dx may be g.
__global__ void __launch_bounds__(kThreads) norm_back_kernel(const NormBack args) {
  launch_dependents();
  dependency_wait();
  const int64_t first = blockIdx.x * static_cast<int64_t>(args.width);
  const float *x = args.input + first, *g = args.gradient + first;
  double squares = 0, along = 0;
  for (int k = static_cast<int>(threadIdx.x); k < args.width; k += kThreads) {
    squares += static_cast<double>(x[k]) * x[k];
    along += static_cast<double>(g[k]) * (args.weight[k] + args.offset) * x[k];
  }
  squares = block_sum<kThreads>(squares), along = block_sum<kThreads>(along);
  const double root = inverse_root(args, squares);
  const auto r = static_cast<float>(root), back = static_cast<float>(along * root * root * root / args.width);
  for (int k = static_cast<int>(threadIdx.x); k < args.width; k += kThreads)
    args.input_gradient[first + k] = r * g[k] * (args.weight[k] + args.offset) - back * x[k];
}

__global__ void __launch_bounds__(kThreads) dot_kernel(const float* a, const float* b, int64_t count, double* partial) {
  launch_dependents();
  dependency_wait();
  double own = 0;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += kDotBlocks * kThreads)
    own += static_cast<double>(a[i]) * b[i];
  const double sum = block_sum<kThreads>(own);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

dim3 rows_grid(int64_t count) { return dim3(static_cast<unsigned>(count)); }

}  // namespace

void norm_back(const NormBack& args, cudaStream_t stream) {
  if (args.weight_gradient) {
    launch(&norm_root_kernel, rows_grid(args.count), kThreads, 0, stream, args);
    add_columns(args.count, args.width, args.weight_gradient, NormTerm{args}, stream);
  }
  launch(&norm_back_kernel, rows_grid(args.count), kThreads, 0, stream, args);
}
void squared_error(const SquaredError& args, cudaStream_t stream) {
  launch(&squared_error_kernel, rows_grid(args.tokens), kThreads, 0, stream, args);
}
void row_scale_gradient(const RowSums& args, cudaStream_t stream) {
  add_columns(args.tokens, args.rows, args.sum, ScaleTerm{args}, stream);
}
void column_sum(const RowSums& args, cudaStream_t stream) { add_columns(args.tokens, args.rows, args.sum, PlainTerm{args}, stream); }
void row_squares(const RowSums& args, cudaStream_t stream) { add_columns(args.tokens, args.rows, args.sum, SquareTerm{args}, stream); }
void token_squares(const TokenSquares& args, cudaStream_t stream) {
  launch(&token_squares_kernel, rows_grid(args.tokens), kThreads, 0, stream, args);
}
void dot(const float* a, const float* b, int64_t count, double* partial, cudaStream_t stream) {
  launch(&dot_kernel, dim3(kDotBlocks), kThreads, 0, stream, a, b, count, partial);
}

}  // namespace tq::cuda
