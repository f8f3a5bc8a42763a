// Planes decoded to halves by the tensor cores (band_decode.h).
#include <algorithm>

#include "kernels/cuda/bands.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int kWarps = 4;         // of a thread block
constexpr int kMostResident = 3;  // thread blocks of a multiprocessor

// A band's rows, of which a lane has four: rows 2 t and 2 t + 1 of each half.
struct BandOutput {
  // What a sum counts; and less what bits of 0 and 1 have too much, all taps.
  float scale[2][2], shift[2][2];
  __half* row;  // the first
  int columns;

  // 16 columns of a lane and half of a group, in turn, of every row.
  __device__ __forceinline__ void store(const uint32_t (&value)[2][2][8], int column) const {
    if (column >= columns) return;
    const int64_t place = half_place(column, columns);
    const int next = half_place(column + 8, columns) - static_cast<int>(place);
    const bool has_next = column + 8 < columns;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t(&of)[8] = value[half][i];
        __half* to = row + (static_cast<int64_t>(8 * half + i) * columns + place);
        *reinterpret_cast<uint4*>(to) = make_uint4(of[0], of[1], of[2], of[3]);
        if (has_next) *reinterpret_cast<uint4*>(to + next) = make_uint4(of[4], of[5], of[6], of[7]);
      }
  }
};

// Half a group: decoded, scaled and stored.
template <int kRate>
__device__ __forceinline__ void decode_half(const uint2 (&words)[kRate + 1], const uint2 (&taps)[2 * Bands<kRate>::kTaken],
                                            const BandOutput& output, int column) {
  uint32_t bits[kRate + 1][2], value[2][2][8];
  Bands<kRate>::turn(words, bits);
  const auto scale = [&](int bit, int half, const float(&sums)[4]) {
    // Of the even bit's column and the odd one's.
    const float even = static_cast<float>(2 << band_exponent(bit)), odd = static_cast<float>(2 << band_exponent(bit + 1));
    const float(&of)[2] = output.scale[half], (&shift)[2] = output.shift[half];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      value[half][i][bit / 2] = halves(fmaf(even * sums[i], of[i], shift[i]), fmaf(odd * sums[2 + i], of[i], shift[i]));
  };
  Bands<kRate>::template decode<0, float[4]>(bits, taps, [&](int pair, int half, const float(&sums)[4]) { scale(2 * pair, half, sums); });
  Bands<kRate>::template decode<1, float[4]>(bits, taps,
                                             [&](int pair, int half, const float(&sums)[4]) { scale(8 + 2 * pair, half, sums); });
  output.store(value, column);
}

// 16 rows of a matrix, counted from args.first.
template <int kRate>
__device__ __forceinline__ void decode_band(const DecodeArgs& args, int row, int first_group, int last_group, int lane) {
  const PlaneJob& job = args.job;
  const int g = lane / 4, t = lane % 4, window = job.windows[kRate], tile = job.band_tile(row);
  const int64_t stride = static_cast<int64_t>(args.groups) * 32;
  const uint4* first = reinterpret_cast<const uint4*>(args.tiles) + lane;               // those of half a group after the other
  const uint4* before = first + (tile > 0 ? tile - 1 : job.tile_count() - 1) * stride;  // the ring
  first += tile * stride;
  const auto load = [&](int group, uint4(&words)[kRate + 1]) {
    words[0] = __ldg(before + group * 32);
#pragma unroll
    for (int i = 0; i < kRate; ++i) words[i + 1] = __ldg(first + i * stride + group * 32);
  };
  uint4 words[kRate + 1], next[kRate + 1];
  load(first_group, words);
  const float* taps = job.taps + kRate * kMaxTaps;
  asm volatile("" : "+l"(taps));  // else the operands of all rates are computed beforehand, and spilled
  uint2 band[2 * Bands<kRate>::kTaken];
#pragma unroll
  for (int i = 0; i < 2 * Bands<kRate>::kTaken; ++i) band[i] = Bands<kRate>::taps_of(taps, window, lane, i);
  float sum = lane < window ? rounded_tap(taps[lane]) : 0.0f;
  sum = warp_sum(sum);
  BandOutput output;
  output.row = static_cast<__half*>(args.half_output) + static_cast<int64_t>(row - args.first + 2 * t) * args.columns;
  output.columns = args.columns;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      output.scale[half][i] = __half2float(__ushort_as_half(job.row_scale[row + 8 * half + 2 * t + i]));
      output.shift[half][i] = -sum * output.scale[half][i];
    }
  launch_dependents();
  dependency_wait();  // for the output alone
#pragma unroll 1
  for (int group = first_group; group < last_group; ++group) {
    load(min(group + 1, last_group - 1), next);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint2 part[kRate + 1];
#pragma unroll
      for (int i = 0; i <= kRate; ++i) part[i] = half ? make_uint2(words[i].z, words[i].w) : make_uint2(words[i].x, words[i].y);
      decode_half<kRate>(part, band, output, group * kGroupColumns + band_column(half, g, 0));
    }
#pragma unroll
    for (int i = 0; i <= kRate; ++i) words[i] = next[i];
  }
}

// Bands times groups, in turn, are shared out among the warps.
__global__ void __launch_bounds__(kWarps * 32, kMostResident) decode_bands_kernel(const __grid_constant__ DecodeArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int64_t places = static_cast<int64_t>(args.count / kBandRows) * args.groups, warps = static_cast<int64_t>(gridDim.x) * kWarps;
  const int64_t last = places * (warp + 1) / warps;
  for (int64_t at = places * warp / warps; at < last;) {
    const int band = static_cast<int>(at / args.groups), first = static_cast<int>(at % args.groups);
    const int count = static_cast<int>(min(last - at, static_cast<int64_t>(args.groups - first)));
    const int row = args.first + band * kBandRows;
    with_rate<kRates - 1>(args.job.rate[row / kRangeRows], [&]<int kRate>() { decode_band<kRate>(args, row, first, first + count, lane); });
    at += count;
  }
}

}  // namespace

void decode_bands(const DecodeArgs& args, cudaStream_t stream) {
  const int64_t places = static_cast<int64_t>(args.count / kBandRows) * args.groups;
  const int64_t blocks = std::min<int64_t>(kMostResident * multiprocessors(), (places + kWarps - 1) / kWarps);
  launch(&decode_bands_kernel, dim3(static_cast<unsigned>(blocks)), kWarps * 32, 0, stream, args);
}

}  // namespace tq::cuda
