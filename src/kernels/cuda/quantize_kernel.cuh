// The rounding as a kernel of its own, for more than one token.
#pragma once

#include "kernels/cuda/quantize.cuh"

namespace tq::cuda {

// Of two magnitudes; NaN counts as larger than all.
__device__ __forceinline__ float largest_of(float a, float b) { return __uint_as_float(max(__float_as_uint(a), __float_as_uint(b))); }

// kMany: to bytes. A warp a group: grid (ceil(groups / kRoundWarps), tokens). A thread block that has all groups knows the factor of a norm
// from them.
template <bool kMany>
__global__ void __launch_bounds__(kRoundWarps * 32) quantize_kernel(const __grid_constant__ QuantizeArgs args) {
  __shared__ float parts[kRoundWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, token = static_cast<int>(blockIdx.y);
  const int group = static_cast<int>(blockIdx.x) * kRoundWarps + warp;
  const bool has_group = group * kGroupColumns < args.columns, has_all = gridDim.x == 1;
  GroupInput input;
  if (has_group) input.read_weights(args, group, lane);
  launch_dependents();
  dependency_wait();
  float own = 0.0f, factor = 1.0f;
  Group values;
  if (has_group) {
    input.read_input(args, token, group, lane);
    values = input.rotate(args, lane, own);
  }
  if (args.input.prologue == Prologue::kNorm) {
    const float* row = args.input.input + token * args.input.stride;
    own = warp_sum(has_all ? own : squares(row, args.columns, static_cast<int>(threadIdx.x), kRoundWarps * 32));
    if (lane == 0) parts[warp] = own;
    __syncthreads();
    factor = 1.0f / sqrtf(warp_sum(parts[lane]) / static_cast<float>(args.columns) + args.input.epsilon);
  }
  if (!has_group) return;
  int sum;
  const int group_words = kMany ? many_group_words(args.form) : args.form.products() * 64;
  const float scale =
      factor * values.round<kMany>(args.form, args.output.words + static_cast<int64_t>(group) * group_words, token, lane, sum);
  if (lane > 0) return;
  args.output.scales[group * args.form.tokens + token] = kMany && args.form.bits == 16 ? 0.5f * scale : scale;
  args.output.sums[group * args.form.tokens + token] = scale * static_cast<float>(sum);
}

// To halves, a thread block a token: kGroups of each warp. Halves of a token share a power of two.
template <int kGroups>
__global__ void __launch_bounds__(kRoundWarps * 32) round_halves_kernel(const __grid_constant__ QuantizeArgs args) {
  __shared__ float squares[kRoundWarps], largest[kRoundWarps], sums[kRoundWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, token = static_cast<int>(blockIdx.x);
  const int groups = (args.columns + kGroupColumns - 1) / kGroupColumns;
  Group values[kGroups];
  float square = 0.0f, most = 0.0f;
  GroupInput input;
  input.read_weights(args, warp, lane);
  launch_dependents();
  dependency_wait();
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    const int group = warp + i * kRoundWarps;
    if (group >= groups) break;
    if (i > 0) input.read_weights(args, group, lane);
    input.read_input(args, token, group, lane);
    float own;
    values[i] = input.rotate(args, lane, own);
    square += own;
    most = largest_of(most, values[i].largest());
  }
  square = warp_sum(square);
  if (lane == 0) squares[warp] = square, largest[warp] = most;
  __syncthreads();
  float factor = 1.0f;
  if (args.input.prologue == Prologue::kNorm)
    factor = 1.0f / sqrtf(warp_sum(squares[lane]) / static_cast<float>(args.columns) + args.input.epsilon);
  most = __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(largest[lane])));
  constexpr int kTopExponent = 4;  // of the largest value: with the powers of band_exponent() all stay below 2^15
  const int exponent = exponent_of(most) - kTopExponent;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    const int group = warp + i * kRoundWarps;
    if (group >= groups) break;
    sum += values[i].store_halves(args.form.tokens, args.output.words + static_cast<int64_t>(group) * band_group_words(args.form.tokens),
                                  token, lane, power_of_two(-exponent));
  }
  sum = warp_sum(sum);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  float total = 0.0f;
  for (const float part : sums) total += part;
  args.output.scales[token] = factor * power_of_two(exponent);
  args.output.sums[token] = total;
}

}  // namespace tq::cuda
