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

__global__ void mirror_kernel(const float* input, float* output, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) output[i] = input[count - 1 - i];
}

__global__ void normalise_mirror_kernel(const float* factor, float* feedback, float* root, int64_t columns) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= columns * columns) return;
  const int64_t j = i / columns, k = i % columns, last = columns * columns - 1;
  const float diagonal = factor[last - k * (columns + 1)];
  feedback[i] = k > j ? factor[last - i] / diagonal : 0.0f;
  if (j == k) root[k] = diagonal;
}

__global__ void widen_kernel(const __half* input, float* output, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) output[i] = __half2float(input[i]);
}

__global__ void widen_bf16_kernel(const uint16_t* input, float* output, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) output[i] = __uint_as_float(static_cast<uint32_t>(input[i]) << 16);
}

unsigned blocks_for(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

}  // namespace

void scale_tokens(const float* input, const float* weight, float* output, int64_t tokens, int64_t columns, cudaStream_t stream) {
  scale_tokens_kernel<<<blocks_for(tokens * columns), kThreads, 0, stream>>>(input, weight, output, tokens, columns);
  expect(cudaGetLastError(), "token weights");
}

void mirror(const float* input, float* output, int64_t columns, cudaStream_t stream) {
  mirror_kernel<<<blocks_for(columns * columns), kThreads, 0, stream>>>(input, output, columns * columns);
  expect(cudaGetLastError(), "mirroring");
}

void normalise_mirror(const float* factor, float* feedback, float* root, int64_t columns, cudaStream_t stream) {
  normalise_mirror_kernel<<<blocks_for(columns * columns), kThreads, 0, stream>>>(factor, feedback, root, columns);
  expect(cudaGetLastError(), "feedback");
}

void widen(const void* halves, float* output, int64_t count, cudaStream_t stream) {
  widen_kernel<<<blocks_for(count), kThreads, 0, stream>>>(static_cast<const __half*>(halves), output, count);
  expect(cudaGetLastError(), "widening");
}

void widen_bf16(const void* values, float* output, int64_t count, cudaStream_t stream) {
  widen_bf16_kernel<<<blocks_for(count), kThreads, 0, stream>>>(static_cast<const uint16_t*>(values), output, count);
  expect(cudaGetLastError(), "widening");
}

}  // namespace tq::cuda
