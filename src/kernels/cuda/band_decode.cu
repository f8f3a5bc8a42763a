// Planes decoded to halves by the tensor cores (band_decode.h).
#include <cuda_fp16.h>

#include "kernels/cuda/band_decode.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int kWarps = 4;        // of a thread block: 16 rows each
constexpr int kStripGroups = 2;  // that a warp decodes
constexpr int kWordBlocks = 4;   // instructions for the 32 columns of a word

// The taps of a rate as operand A, each as the sum of two halves: 22 bits of it.
template <int kRate>
struct Band {
  static constexpr int kSteps = kRate + 1;
  uint32_t high[kSteps][4], low[kSteps][4];

  __device__ Band(const PlaneJob& job, int g, int t) {
    const float* taps = job.taps + kRate * kMaxTaps;
    const int window = job.windows[kRate];
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        __half2 one[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int tap = band_tap(kRate, g + 8 * (i % 2), step, slot_row(2 * t + j + 8 * (i / 2)));
          const float value = tap >= 0 && tap < window ? taps[tap] : 0.0f;
          const __half high_part = __float2half_rn(value), low_part = __float2half_rn(value - __half2float(high_part));
          if (j == 0) one[0].x = high_part, one[1].x = low_part;
          else one[0].y = high_part, one[1].y = low_part;
        }
        high[step][i] = *reinterpret_cast<uint32_t*>(&one[0]);
        low[step][i] = *reinterpret_cast<uint32_t*>(&one[1]);
      }
  }
};

// 8 columns of one row.
__device__ __forceinline__ void store(const float (&sum)[kWordBlocks][4], int half, float scale, __half* output) {
  __half2 values[kWordBlocks];
#pragma unroll
  for (int i = 0; i < kWordBlocks; ++i) values[i] = __floats2half2_rn(scale * sum[i][2 * half], scale * sum[i][2 * half + 1]);
  *reinterpret_cast<uint4*>(output) = *reinterpret_cast<const uint4*>(values);
}

// 16 rows of a matrix, counted from args.first.
template <int kRate>
__device__ __forceinline__ void decode_band(const DecodeArgs& args, int row, int first_group, int last_group, int g, int t) {
  constexpr int kSteps = Band<kRate>::kSteps;
  const PlaneJob& job = args.job;
  const Band<kRate> band(job, g, t);
  const int first_plane = job.newest[row / kRangeRows] - kRate + 1 + row % kRangeRows * kRate;
  const auto* tiles = reinterpret_cast<const uint4*>(args.tiles);
  const uint4* from[kSteps];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    int tile = first_plane / kTileRows + step - 1;
    if (tile < 0) tile += job.tile_count();  // the ring
    from[step] = tiles + static_cast<int64_t>(tile) * args.groups * 32 + 4 * t;
  }
  const uint32_t byte = g / 2, selector = byte | byte << 4 | (4 + byte) << 8 | (4 + byte) << 12;
  const float scale[2] = {__half2float(__ushort_as_half(job.row_scale[row + g])),
                          __half2float(__ushort_as_half(job.row_scale[row + g + 8]))};
  __half* output = static_cast<__half*>(args.half_output) + static_cast<int64_t>(row - args.first + g) * args.columns + 8 * t;
  launch_dependents();
  dependency_wait();
  for (int group = first_group; group < last_group; ++group)
    for (int word = 0; word < 4; ++word) {
      float sum[2][kWordBlocks][4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const uint4 near = from[step][group * 32 + word], far = from[step][group * 32 + word + 16];
        const uint32_t bits[2][2] = {{__byte_perm(near.x, near.y, selector), __byte_perm(far.x, far.y, selector)},
                                     {__byte_perm(near.z, near.w, selector), __byte_perm(far.z, far.w, selector)}};
#pragma unroll
        for (int part = 0; part < 2; ++part)  // words `word` and word + 4
#pragma unroll
          for (int i = 0; i < kWordBlocks; ++i) {
            const uint32_t b0 = band_halves(bits[part][0], i, g), b1 = band_halves(bits[part][1], i, g);
            mma_halves(sum[part][i], band.high[step], b0, b1);
            mma_halves(sum[part][i], band.low[step], b0, b1);
          }
      }
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int column = group * kGroupColumns + 32 * (word + 4 * part);
        if (column + 8 * t >= args.columns) continue;
        store(sum[part], 0, scale[0], output + column);
        store(sum[part], 1, scale[1], output + column + 8 * static_cast<int64_t>(args.columns));
      }
    }
}

// grid (groups / kStripGroups, rows / (kWarps * 16))
__global__ void __launch_bounds__(kWarps * 32, 3) decode_bands_kernel(const __grid_constant__ DecodeArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = args.first + (static_cast<int>(blockIdx.y) * kWarps + warp) * kBandRows;
  if (row >= args.first + args.count) return;
  const int first = static_cast<int>(blockIdx.x) * kStripGroups, last = min(first + kStripGroups, args.groups);
  const int g = lane / 4, t = lane % 4;
  switch (args.job.rate[row / kRangeRows]) {
    case 1: return decode_band<1>(args, row, first, last, g, t);
    case 2: return decode_band<2>(args, row, first, last, g, t);
    case 3: return decode_band<3>(args, row, first, last, g, t);
    case 4: return decode_band<4>(args, row, first, last, g, t);
    case 5: return decode_band<5>(args, row, first, last, g, t);
    case 6: return decode_band<6>(args, row, first, last, g, t);
    case 7: return decode_band<7>(args, row, first, last, g, t);
    default: return decode_band<8>(args, row, first, last, g, t);
  }
}

}  // namespace

void decode_bands(const DecodeArgs& args, cudaStream_t stream) {
  const int rows = kWarps * kBandRows;
  const dim3 grid(static_cast<unsigned>((args.groups + kStripGroups - 1) / kStripGroups),
                  static_cast<unsigned>((args.count + rows - 1) / rows));
  launch(&decode_bands_kernel, grid, kWarps * 32, 0, stream, args);
}

}  // namespace tq::cuda
