// Outputs filtered from the sums of plane rows. Whichever thread block adds the last plane row that a range of 32 rows needs filters it.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

constexpr int kWindowSums = (kRangeRows - 1) * (kRates - 1) + kMaxTaps;
// Shared-memory slot of sum i: rows that lie K sums apart fall into different banks.
__device__ __forceinline__ int filter_slot(int i) { return i + i / 32; }

// A range of 32 rows, of a warp in shared memory.
struct RangeAhead {
  int job, range;        // job -1: none
  int rate, taps, rows;  // rows: of the range
  int begin, end;        // plane rows of the windows; `begin` may be negative: the ring closes
  uint32_t expected;     // thread blocks that have some of them
  float tap[kMaxTaps], scale[kRangeRows], bias[kRangeRows];
};

// What a warp does at the end of a launch: it counts its thread block at the ranges that take from its plane rows, and filters where that
// was the last to come.
template <int kTokens>
struct Filter {
  static constexpr int kTogether = kTokens >= 4 ? 4 : kTokens;
  struct Sums {
    float sum[kTogether][kWindowSums + kWindowSums / 32 + 1];
  };
  const PlaneArgs& args;
  int first, count;  // tiles of the launch that are this thread block's
  int warp, lane;
  RangeAhead* ahead;
  Sums* sums;
  const float* totals;  // [tokens], where the activations were rounded by a kernel of their own

  __device__ Filter(const PlaneArgs& args_, int first_, int count_, int warp_, int lane_, RangeAhead* ahead_, Sums* sums_,
                    const float* totals_)
      : args(args_), first(first_), count(count_), warp(warp_), lane(lane_), ahead(ahead_), sums(sums_), totals(totals_) {}

  // Reads what depends on weights alone of the warp's first range.
  __device__ void look_ahead() const { look(warp); }

  __device__ void run() const {
    for (int turn = warp; ahead->job >= 0; look(turn)) {
      bool is_last = false;
      if (lane == 0) is_last = arrive();
      if (__shfl_sync(0xffffffffu, is_last, 0)) filter();
      turn += kProductWarps;
      __syncwarp();
    }
  }

  // The turn-th of the ranges that the thread block's plane rows reach, into `ahead`.
  __device__ void look(int turn) const {
    int index = 0, range = -1;
    for (; index < args.jobs; ++index) {
      const PlaneJob& job = args.job[index];
      const int begin = max(first - job.first_tile, 0), end = min(first + count - job.first_tile, job.tile_count());
      if (begin >= end) continue;
      const int low = job.reach[2 * begin], high = job.reach[2 * (end - 1) + 1];
      const int ranges = high - low + 1, all = ranges + (low > 0 && end > job.closing_tile ? 1 : 0);
      if (turn < all) {
        range = turn < ranges ? low + turn : 0;
        break;
      }
      turn -= all;
    }
    if (range >= 0) read(index, range);
    else if (lane == 0) ahead->job = -1;
    __syncwarp();
  }

  __device__ void read(int index, int range) const {
    const PlaneJob& job = args.job[index];
    const int rate = job.rate[range], newest = job.newest[range], taps = job.windows[rate], row = range * kRangeRows + lane;
    const int rows = min(kRangeRows, job.rows - range * kRangeRows), begin = newest - taps + 1, end = newest + (rows - 1) * rate + 1;
    if (lane < kMaxTaps) ahead->tap[lane] = lane < taps ? job.taps[rate * kMaxTaps + lane] : 0.0f;
    ahead->scale[lane] = lane < rows ? __half2float(__ushort_as_half(job.row_scale[row])) : 0.0f;
    ahead->bias[lane] = lane < rows && job.bias ? job.bias[row] : 0.0f;
    if (lane > 0) return;
    ahead->job = index, ahead->range = range, ahead->rate = rate, ahead->taps = taps, ahead->rows = rows;
    ahead->begin = begin, ahead->end = end, ahead->expected = expected(job, begin, end);
  }

  // How many thread blocks have plane rows of [begin, end).
  __device__ uint32_t expected(const PlaneJob& job, int begin, int end) const {
    const Split& split = args.split;
    const Range own = split.blocks_of(job.first_tile + max(begin, 0) / kTileRows, job.first_tile + (end - 1) / kTileRows);
    int blocks = own.count;
    if (begin < 0) {
      const Range more = split.blocks_of(job.first_tile + job.closing_tile, job.first_tile + job.tile_count() - 1);
      blocks += max(0, more.first + more.count - max(more.first, own.first + own.count));
    }
    return static_cast<uint32_t>(blocks * split.slices);
  }

  // Whether this thread block is the last of those that have plane rows of the range. Its sums are visible before it counts, and those of
  // the others after.
  __device__ bool arrive() const {
    uint32_t* arrived = args.arrived + args.job[ahead->job].first_range + ahead->range;
    if (add_acquire_release(arrived, 1) + 1 < ahead->expected) return false;
    *arrived = 0;
    return true;
  }

  __device__ void filter() const {
    const PlaneJob& job = args.job[ahead->job];
    const int row = ahead->range * kRangeRows + lane;
    const bool has_row = lane < ahead->rows;
    for (int from = 0; from < args.tokens; from += kTogether) {
      float before[kTogether] = {}, y[kTogether] = {}, tap_sum = 0.0f;
      float total[kTogether], factor = 1.0f;
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
        if (args.adds && has_row && from + k < args.tokens)
          before[k] = __ldcg(job.output + static_cast<int64_t>(from + k) * job.rows + row);
      if (kTokens == 1 && args.input.input.input) {
        read_totals(total[0], factor);
      } else {
#pragma unroll
        for (int k = 0; k < kTogether; ++k) total[k] = totals[from + k];
      }
      load(job, from);
      __syncwarp();
      const int newest = ahead->taps - 1 + (has_row ? lane * ahead->rate : 0);
#pragma unroll 4
      for (int j = 0; j < ahead->taps; ++j) {
        const float tap = ahead->tap[j];
        tap_sum += tap;
#pragma unroll
        for (int k = 0; k < kTogether; ++k) y[k] = fmaf(tap, sums->sum[k][filter_slot(newest - j)], y[k]);
      }
      __syncwarp();
      const float scale = factor * ahead->scale[lane], bias = ahead->bias[lane];
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
        if (has_row && from + k < args.tokens)
          job.output[static_cast<int64_t>(from + k) * job.rows + row] = before[k] + (scale * (2.0f * y[k] - total[k] * tap_sum) + bias);
    }
  }

  // One token that the thread blocks have rounded: the sum of its rounded values times their scales, and the factor of its norm.
  __device__ void read_totals(float& total, float& factor) const {
    float2 sum = make_float2(0.0f, 0.0f);
    for (int slice = 0; slice < args.split.slices; ++slice) {
      const float2 more = __ldcg(reinterpret_cast<const float2*>(args.totals) + slice);
      sum.x += more.x, sum.y += more.y;
    }
    total = sum.x;
    if (args.input.input.prologue == Prologue::kNorm)
      factor = 1.0f / sqrtf(sum.y / static_cast<float>(args.input.columns) + args.input.input.epsilon);
  }

  // The window's sums of kTogether tokens into shared memory; many are under way at a time.
  __device__ void load(const PlaneJob& job, int token) const {
    constexpr int kFlight = 5, kSlices = kTokens == 1 ? 4 : 2;
    const int window = ahead->end - ahead->begin, slices = args.split.slices;
    const int64_t rows = static_cast<int64_t>(args.split.tiles) * kTileRows;
    const float* from = args.partial + token * rows + static_cast<int64_t>(job.first_tile) * kTileRows;
    for (int i = lane; i < window; i += 32 * kFlight) {
      int plane[kFlight];
#pragma unroll
      for (int u = 0; u < kFlight; ++u) {
        plane[u] = ahead->begin + i + 32 * u;
        while (plane[u] < 0) plane[u] += job.plane_rows;
      }
      float value[kTogether][kFlight] = {};
      for (int slice = 0; slice < slices; slice += kSlices) {
        float part[kSlices][kTogether][kFlight];
#pragma unroll
        for (int s = 0; s < kSlices; ++s)
#pragma unroll
          for (int k = 0; k < kTogether; ++k)
#pragma unroll
            for (int u = 0; u < kFlight; ++u)
              part[s][k][u] =
                  slice + s < slices && i + 32 * u < window ? __ldcg(from + ((slice + s) * kTokens + k) * rows + plane[u]) : 0.0f;
#pragma unroll
        for (int s = 0; s < kSlices; ++s)
#pragma unroll
          for (int k = 0; k < kTogether; ++k)
#pragma unroll
            for (int u = 0; u < kFlight; ++u) value[k][u] += part[s][k][u];
      }
#pragma unroll
      for (int u = 0; u < kFlight; ++u)
#pragma unroll
        for (int k = 0; k < kTogether; ++k)
          if (i + 32 * u < window) sums->sum[k][filter_slot(i + 32 * u)] = value[k][u];
    }
  }
};

}  // namespace tq::cuda
