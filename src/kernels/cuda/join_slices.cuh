// Outputs of the product with many tokens (plane_many.cuh) where its columns are cut into slices.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

constexpr int kJoinThreads = 256;

// Outputs of several slices' filtered sums: a thread block a range of rows.
__global__ void __launch_bounds__(kJoinThreads) join_slices_kernel(const __grid_constant__ ManyArgs args) {
  __shared__ float sums[kManyTokens][kRangeRows + 1];
  const int number = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x), lane = thread % 32, tokens = args.form.tokens;
  launch_dependents();
  int index = 0;
  while (index + 1 < args.jobs && number >= args.job[index + 1].first_range) ++index;
  const PlaneJob& job = args.job[index];
  const int range = number - job.first_range, row = range * kRangeRows + lane;
  const bool has_row = row < job.rows;
  float tap_sum = 0.0f, scale = 0.0f, bias = 0.0f;
  if (has_row) {
    const int rate = job.rate[range];
    for (int j = 0; j < job.windows[rate]; ++j) tap_sum += job.taps[rate * kMaxTaps + j];
    scale = __half2float(__ushort_as_half(job.row_scale[row])), bias = job.bias ? job.bias[row] : 0.0f;
  }
  dependency_wait();
  const int64_t stride = static_cast<int64_t>(args.split.rows()) * tokens / 4;
  for (int i = thread; i < kRangeRows * tokens / 4; i += kJoinThreads) {
    const auto* from = reinterpret_cast<const float4*>(args.partial) + static_cast<int64_t>(number) * kRangeRows * tokens / 4 + i;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
    for (int slice = 0; slice < args.split.slices; ++slice) {
      const float4 more = __ldcg(from + slice * stride);
      sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
    }
    const int token = i * 4 % tokens, at = i * 4 / tokens;
    sums[token][at] = sum.x, sums[token + 1][at] = sum.y, sums[token + 2][at] = sum.z, sums[token + 3][at] = sum.w;
  }
  __syncthreads();
  if (!has_row) return;
  const float* totals = args.partial + args.split.partial_sums(tokens);
  for (int token = thread / 32; token < args.tokens; token += kJoinThreads / 32) {
    float* output = job.output + static_cast<int64_t>(token) * job.rows + row;
    const float before = args.adds ? __ldcg(output) : 0.0f;
    *output = before + (scale * (2.0f * sums[token][lane] - __ldcg(totals + token) * tap_sum) + bias);
  }
}

}  // namespace tq::cuda
