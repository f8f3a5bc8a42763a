// What stands before a product, value by value.
#pragma once

#include <algorithm>

#include "kernels/cuda/dense_args.h"
#include "kernels/cuda/device.cuh"

namespace tq::cuda {

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }
// As ref::activate: GELU by tanh, GELU.
static __device__ __noinline__ float activate_rare(int kind, float x) {
  if (kind == 1) return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
  return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
}

__device__ __forceinline__ float activate(int kind, float x) { return kind == 0 ? silu(x) : activate_rare(kind, x); }

// A thread's part of the sum of squares of a row, which `threads` threads share.
__device__ __forceinline__ float squares(const float* row, int columns, int thread, int threads) {
  float sum = 0.0f;
  // The same order for every row of a batch.
  const int vectors = columns % 4 == 0 && reinterpret_cast<uintptr_t>(row) % sizeof(float4) == 0 ? columns / 4 : 0;
#pragma unroll 8
  for (int i = thread; i < vectors; i += threads) {
    const float4 x = reinterpret_cast<const float4*>(row)[i];
    sum += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
  }
  for (int i = 4 * vectors + thread; i < columns; i += threads) sum += row[i] * row[i];
  return sum;
}

// The factor of a norm, 1 / rms of the token's whole row, which the kWarps warps of a thread block share; 1 without a norm. Waits for all
// threads.
template <int kWarps>
__device__ __forceinline__ float norm_factor(const InputArgs& args, int columns, int64_t token) {
  if (args.prologue != Prologue::kNorm) return 1.0f;
  __shared__ float parts[kWarps];
  const float sum = warp_sum(squares(args.input + token * args.stride, columns, static_cast<int>(threadIdx.x), kWarps * 32));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (const float part : parts) total += part;
  return 1.0f / sqrtf(total / static_cast<float>(columns) + args.epsilon);
}

// Columns k .. k + 3 of a token, k a multiple of 4, zeros behind the last one. factor: norm_factor().
__device__ __forceinline__ void input_values(const InputArgs& args, int columns, int64_t token, int k, float factor, float (&value)[4]) {
  const bool is_norm = args.prologue == Prologue::kNorm, is_gated = args.prologue == Prologue::kGated;
  const float* row = args.input + token * args.stride + k;
  const float* other_row = is_norm ? args.other + k : is_gated ? args.other + token * args.stride + k : row;
  alignas(16) float other[4];
  if (k + 4 <= columns && (reinterpret_cast<uintptr_t>(row) | reinterpret_cast<uintptr_t>(other_row)) % sizeof(float4) == 0) {
    *reinterpret_cast<float4*>(value) = *reinterpret_cast<const float4*>(row);
    *reinterpret_cast<float4*>(other) = *reinterpret_cast<const float4*>(other_row);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] = k + i < columns ? row[i] : 0.0f, other[i] = k + i < columns ? other_row[i] : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (is_norm) value[i] *= factor * (other[i] + args.offset);
    if (is_gated) value[i] = activate(args.gate_kind, value[i]) * other[i];
  }
}

// Thread blocks that share out the columns of each of `tokens`, at most `most`: enough for every multiprocessor to have a few.
inline int token_parts(int tokens, int most) {
  constexpr int kWanted = 512;
  return std::min(most, (kWanted + tokens - 1) / tokens);
}

}  // namespace tq::cuda
