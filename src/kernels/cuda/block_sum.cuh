// Sums and maxima over a thread block, the same in every thread, in a fixed order.
#pragma once

#include "kernels/cuda/device.cuh"

namespace tq::cuda {

// kThreads: of the block, whole warps. May be called again and again; every thread must.
template <int kThreads>
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double parts[kThreads / 32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (const double part : parts) sum += part;
  return sum;
}

template <int kThreads>
__device__ __forceinline__ float block_max(float value) {
  __shared__ float parts[kThreads / 32];
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  float largest = parts[0];
#pragma unroll
  for (const float part : parts) largest = fmaxf(largest, part);
  return largest;
}

}  // namespace tq::cuda
