// Activations rotated and rounded to int8 columns.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plane_types.h"
#include "kernels/cuda/prologue.cuh"

namespace tq::cuda {

constexpr int kQuantizeWarps = 8;

// 256 columns of one token, 8 a lane: value i is column 8 * lane + i of the group.
struct Group {
  float value[8];

  // The input after its prologue, in the rotated basis; zeros behind the last column. factor: of a norm.
  __device__ void read(const QuantizeArgs& args, int64_t token, int group, int lane, float factor) {
    const InputArgs& input = args.input;
    const int first = group * kGroupColumns + 8 * lane;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int k = first + i;
      value[i] = 0.0f;
      if (k >= args.columns) continue;
      const float x = input_value(input, token, k, factor);
      value[i] = args.sign[k / 8] >> (k % 8) & 1 ? -x : x;
    }
    hadamard(args.hadamard, lane);
  }

  // Sylvester order, orthonormal, on blocks of `size` (a power of two up to 256).
  __device__ void hadamard(int size, int lane) {
#pragma unroll
    for (int step = 1; step < 8; step *= 2) {
      if (step >= size) break;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (i & step) continue;
        const float a = value[i], b = value[i + step];
        value[i] = a + b, value[i + step] = a - b;
      }
    }
    for (int step = 1; step * 8 < size; step *= 2) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float other = __shfl_xor_sync(0xffffffffu, value[i], step);
        value[i] = lane & step ? other - value[i] : value[i] + other;
      }
    }
    const float scale = rsqrtf(static_cast<float>(size));
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= scale;
  }

  // Rounds as the CPU's PlaneInput does.
  __device__ void round(const Form& form, const Activations& out, int group, int token, int lane) const {
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(value[i]));
    largest = warp_max(largest);
    const float steps = form.is_pair ? 127.0f * 128.0f : 127.0f;
    const float scale = largest / steps, inverse = largest > 0.0f ? steps / largest : 0.0f;
    uint32_t high[2] = {}, low[2] = {};
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int rounded = __float2int_rn(value[i] * inverse);
      sum += rounded;
      const int top = form.is_pair ? (rounded + 64) >> 7 : rounded;
      high[i / 4] |= (static_cast<uint32_t>(top) & 0xffu) << (8 * (i % 4));
      low[i / 4] |= (static_cast<uint32_t>(rounded - top * 128) & 0xffu) << (8 * (i % 4));
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    const int tile = group * kGroupTiles + lane / 4, half = lane % 4 / 2, t = 2 * (lane % 2), column = form.is_pair ? 2 * token : token;
    uint32_t* words = out.words + ((static_cast<int64_t>(tile) * form.columns + column) * 4 + t) * 2 + half;
    words[0] = high[0], words[2] = high[1];
    if (form.is_pair) words[8] = low[0], words[10] = low[1];
    if (lane == 0) {
      out.scales[group * form.tokens() + token] = scale;
      out.sums[group * form.tokens() + token] = scale * static_cast<float>(sum);
    }
  }
};

// The factor of a norm, from the whole row, which the warps of a thread block share; 1 without a norm. Waits for all threads.
__device__ __forceinline__ float norm_factor(const QuantizeArgs& args, int64_t token) {
  const InputArgs& input = args.input;
  if (input.prologue != Prologue::kNorm) return 1.0f;
  __shared__ float parts[kQuantizeWarps];
  const float sum = warp_sum(squares(input.input + token * input.stride, args.columns, static_cast<int>(threadIdx.x), kQuantizeWarps * 32));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (const float part : parts) total += part;
  return 1.0f / sqrtf(total / static_cast<float>(args.columns) + input.epsilon);
}

// A warp a group: grid (ceil(groups / kQuantizeWarps), tokens).
__global__ void __launch_bounds__(kQuantizeWarps * 32) quantize_kernel(const __grid_constant__ QuantizeArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % 32, token = static_cast<int>(blockIdx.y);
  const int group = static_cast<int>(blockIdx.x) * kQuantizeWarps + static_cast<int>(threadIdx.x) / 32;
  launch_dependents();
  dependency_wait();
  const float factor = norm_factor(args, token);
  if (group * kGroupColumns >= args.columns) return;
  Group values;
  values.read(args, token, group, lane, factor);
  values.round(args.form, args.output, group, token, lane);
}

}  // namespace tq::cuda
