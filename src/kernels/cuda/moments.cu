#include <cuda_fp16.h>

#include "kernels/cuda/expect.h"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void scale_tokens_kernel(const float* input, const float* weight, float* output, int64_t tokens, int64_t columns) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < tokens * columns) output[i] = sqrtf(weight[i / columns]) * input[i];
}

__global__ void widen_kernel(const __half* input, float* output, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) output[i] = __half2float(input[i]);
}

unsigned blocks_for(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

}  // namespace

void scale_tokens(const float* input, const float* weight, float* output, int64_t tokens, int64_t columns, cudaStream_t stream) {
  scale_tokens_kernel<<<blocks_for(tokens * columns), kThreads, 0, stream>>>(input, weight, output, tokens, columns);
  expect(cudaGetLastError(), "token weights");
}

void widen(const void* halves, float* output, int64_t count, cudaStream_t stream) {
  widen_kernel<<<blocks_for(count), kThreads, 0, stream>>>(static_cast<const __half*>(halves), output, count);
  expect(cudaGetLastError(), "widening");
}

}  // namespace tq::cuda
