// The rounding as a kernel of its own, for more than one token.
#pragma once

#include "kernels/cuda/quantize.cuh"

namespace tq::cuda {

constexpr int kRoundWarps = 32;

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

}  // namespace tq::cuda
