// What stands before a product, value by value.
#pragma once

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

// 1 / rms of a row, the same in every thread of a warp; every warp must call it whole.
__device__ __forceinline__ float inverse_rms(const float* row, int columns, float epsilon, int lane) {
  return 1.0f / sqrtf(warp_sum(squares(row, columns, lane, 32)) / static_cast<float>(columns) + epsilon);
}

// Column k of a token. factor: inverse_rms with a norm.
__device__ __forceinline__ float input_value(const InputArgs& args, int64_t token, int k, float factor) {
  const float x = args.input[token * args.stride + k];
  if (args.prologue == Prologue::kNorm) return x * factor * (args.other[k] + args.offset);
  if (args.prologue == Prologue::kGated) return activate(args.gate_kind, x) * args.other[token * args.stride + k];
  return x;
}

}  // namespace tq::cuda
