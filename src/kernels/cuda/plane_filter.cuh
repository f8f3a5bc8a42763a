// Outputs filtered from the partial sums of a product.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

constexpr int kFilterThreads = 256;
constexpr int kFilterSums = kFilterRows * 8 + kMaxTaps;
// Shared-memory slot of sum i: rows that lie K sums apart fall into different banks.
__device__ __forceinline__ int filter_slot(int i) { return i + i / 32; }
constexpr int kFilterSlots = kFilterSums + kFilterSums / 32 + 1;

// The partial sums of a plane row within one slice.
struct Source {
  const float* at;
  int count;
};
__device__ __forceinline__ Source source_of(const FilterArgs& args, int part, int token, int plane_row) {
  const Slice slice = args.split.slice(part);
  const int64_t stride = static_cast<int64_t>(args.split.blocks) * kTileRows;
  const int block = plane_row / kTileRows;
  const int count = static_cast<int>(args.split.last_worker(slice, block) - args.split.first_worker(slice, block)) + 1;
  return {args.partial + (static_cast<int64_t>(part * args.split.slots_per_slice) * args.form_tokens + token) * stride + plane_row, count};
}
__device__ __forceinline__ float sum_source(const FilterArgs& args, const Source& source) {
  constexpr int kFlight = 16;  // all under way before the first is added
  const int64_t step = static_cast<int64_t>(args.form_tokens) * args.split.blocks * kTileRows;
  float sum = 0.0f;
  for (int slot = 0; slot < source.count; slot += kFlight) {
    float value[kFlight];
#pragma unroll
    for (int i = 0; i < kFlight; ++i) value[i] = slot + i < source.count ? source.at[(slot + i) * step] : 0.0f;
#pragma unroll
    for (int i = 0; i < kFlight; ++i) sum += value[i];
  }
  return sum;
}

// The rows [first, first + kFilterRows) of a job for one token, a row a thread of the first kFilterRows. What depends on the weights alone
// is read before the partial sums are waited for.
struct RowFilter {
  const FilterArgs& args;
  const FilterJob& job;
  int thread, first_plane, token;  // of the job's partial sums
  int low, high;                   // plane rows of the window; low may be negative: the ring closes
  int row, newest, window;         // of this thread; newest counts from low
  bool has_row;
  float scale, bias;
  Source source;

  __device__ RowFilter(const FilterArgs& args_, int index, int first, int token_, float* taps)
      : args(args_),
        job(args_.job[index]),
        thread(static_cast<int>(threadIdx.x)),
        first_plane(args_.first_block[index] * kTileRows),
        token(token_) {
    const int last = min(first + kFilterRows, job.rows) - 1, range = first / 32, last_range = last / 32;
    const int rate = job.rate[range], last_rate = job.rate[last_range];
    const int begin = job.newest[range] - job.windows[rate] + 1;
    high = job.newest[last_range] + last % 32 * last_rate;
    // The last range's window may reach further back than the first's.
    low = last_range > range ? min(begin, job.newest[last_range] - job.windows[last_rate] + 1) : begin;
    source = source_of(args, 0, token, plane(thread));
    row = first + thread;
    has_row = thread < kFilterRows && row <= last;
    if (thread < 2 * kMaxTaps) {
      const int of_rate = thread < kMaxTaps ? rate : last_rate;
      taps[thread] = job.taps[of_rate * kMaxTaps + thread % kMaxTaps];
    }
    if (!has_row) return;
    const bool is_last = row / 32 == last_range && last_range > range;
    const int own_rate = is_last ? last_rate : rate;
    newest = job.newest[row / 32] + row % 32 * own_rate - low;
    window = job.windows[own_rate];
    scale = __half2float(__ushort_as_half(job.row_scale[row]));
    bias = job.bias ? job.bias[row] : 0.0f;
  }
  // The i-th plane row of the window, among those of the launch.
  __device__ int plane(int i) const {
    int at = low + min(i, high - low);
    while (at < 0) at += job.plane_rows;
    return first_plane + at;
  }
  // z: kFilterSlots floats, taps: 2 kMaxTaps, both of the thread block. total: the sum of the token's activations.
  __device__ float run(float total, float* z, const float* taps) const {
    for (int i = thread; i <= high - low; i += kFilterThreads) {
      float sum = sum_source(args, i == thread ? source : source_of(args, 0, token, plane(i)));
      for (int part = 1; part < args.split.slices; ++part) sum += sum_source(args, source_of(args, part, token, plane(i)));
      z[filter_slot(i)] = sum;
    }
    __syncthreads();
    if (!has_row) return 0.0f;
    const float* own = taps + (thread < 32 ? 0 : kMaxTaps);
    float y = 0.0f, tap_sum = 0.0f;
#pragma unroll 4
    for (int j = 0; j < window; ++j) y += own[j] * z[filter_slot(newest - j)], tap_sum += own[j];
    return scale * (2.0f * y - total * tap_sum) + bias;
  }
};

// The sum of a token's activations from those of its groups; the same in every thread.
__device__ __forceinline__ float input_sum(const FilterArgs& args, int token) {
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < args.split.groups; i += 32) sum += args.sums[i * args.form_tokens + token];
  return warp_sum(sum);
}

__device__ __forceinline__ int filter_job(const FilterArgs& args, int row_block) {
  int job = 0;
  while (job + 1 < args.jobs && row_block >= args.job[job + 1].first_row_block) ++job;
  return job;
}

// grid: (blocks of kFilterRows rows over all jobs, tokens)
__global__ void __launch_bounds__(kFilterThreads) plane_filter_kernel(const __grid_constant__ FilterArgs args) {
  __shared__ float z[kFilterSlots], taps[2 * kMaxTaps];
  launch_dependents();
  const int token = static_cast<int>(blockIdx.y), index = filter_job(args, static_cast<int>(blockIdx.x));
  const FilterJob& job = args.job[index];
  const RowFilter filter(args, index, (static_cast<int>(blockIdx.x) - job.first_row_block) * kFilterRows, token, taps);
  dependency_wait();
  const float y = filter.run(input_sum(args, token), z, taps);
  if (!filter.has_row) return;
  float* out = job.output + static_cast<int64_t>(token) * job.rows + filter.row;
  *out = args.adds ? *out + y : y;
}

}  // namespace tq::cuda
