// Planes decoded to halves by the tensor cores (band_decode.h).
#include <algorithm>

#include "kernels/cuda/bands.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int kWarps = 4;         // of a thread block
constexpr int kMostResident = 3;  // thread blocks of a multiprocessor

// A band's rows, of which a lane stores two: row g of each half.
struct BandOutput {
  // Of [half][rows 2 t and 2 t + 1]: what a sum counts; and less what bits of 0 and 1 have too much, all taps.
  float scale[2][2], shift[2][2];
  __half* row[2];

  // 32 columns of a lane and half of a group: halves of columns (c, 16 + c) in turn. Two neighbours trade 8 columns for 8, so that together
  // they store whole sectors.
  __device__ __forceinline__ void store(int half, const uint32_t (&value)[16], int column, int columns, int t) const {
    uint32_t eight[4][4];  // columns in turn
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        eight[quarter][i] = __byte_perm(value[quarter % 2 * 8 + 2 * i], value[quarter % 2 * 8 + 2 * i + 1], quarter < 2 ? 0x5410 : 0x7632);
    const bool is_odd = t % 2 != 0;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t &low = eight[2 * pair][i], &high = eight[2 * pair + 1][i];
        const uint32_t got = __shfl_xor_sync(0xffffffffu, is_odd ? low : high, 1);
        (is_odd ? low : high) = got;  // an even lane has quarters 0 and 2 of both, its own first; an odd one 1 and 3, its own last
      }
    const int from = column - (is_odd ? 32 : 0) + (is_odd ? 8 : 0);
#pragma unroll
    for (int lane = 0; lane < 2; ++lane)
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const uint32_t(&of)[4] = eight[2 * pair + lane];
        const int to = from + 32 * lane + 16 * pair;
        if (to < columns) *reinterpret_cast<uint4*>(row[half] + to) = make_uint4(of[0], of[1], of[2], of[3]);
      }
  }
};

// Half a group: decoded, scaled, transposed and stored.
template <int kRate>
__device__ __forceinline__ void decode_half(const uint2 (&words)[kRate + 1], const uint2 (&taps)[2 * Bands<kRate>::kTaken],
                                            const BandOutput& output, int column, int columns, int t) {
  uint32_t bits[kRate + 1][2], value[2][16];
  Bands<kRate>::turn(words, bits);
  const auto scale = [&](int bit, int half, const float(&sums)[4]) {
    // Of the even bit's columns and the odd one's.
    const float even = static_cast<float>(2 << band_exponent(bit)), odd = static_cast<float>(2 << band_exponent(bit + 1));
    const float(&of)[2] = output.scale[half], (&shift)[2] = output.shift[half];
    value[half][bit] = transpose_matrix(halves(fmaf(even * sums[0], of[0], shift[0]), fmaf(even * sums[1], of[1], shift[1])));
    value[half][bit + 1] = transpose_matrix(halves(fmaf(odd * sums[2], of[0], shift[0]), fmaf(odd * sums[3], of[1], shift[1])));
  };
  Bands<kRate>::template decode<0, float[4]>(bits, taps, [&](int pair, int half, const float(&sums)[4]) { scale(2 * pair, half, sums); });
  Bands<kRate>::template decode<1, float[4]>(bits, taps,
                                             [&](int pair, int half, const float(&sums)[4]) { scale(8 + 2 * pair, half, sums); });
#pragma unroll
  for (int half = 0; half < 2; ++half) output.store(half, value[half], column, columns, t);
}

// 16 rows of a matrix, counted from args.first.
template <int kRate>
__device__ __forceinline__ void decode_band(const DecodeArgs& args, int row, int first_group, int last_group, int lane) {
  const PlaneJob& job = args.job;
  const int g = lane / 4, t = lane % 4, window = job.windows[kRate];
  const float* taps = job.taps + kRate * kMaxTaps;
  uint2 band[2 * Bands<kRate>::kTaken];
#pragma unroll
  for (int i = 0; i < 2 * Bands<kRate>::kTaken; ++i) band[i] = Bands<kRate>::taps_of(taps, window, lane, i);
  float sum = lane < window ? rounded_tap(taps[lane]) : 0.0f;
  sum = warp_sum(sum);
  BandOutput output;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    output.row[half] = static_cast<__half*>(args.half_output) + static_cast<int64_t>(row - args.first + 8 * half + g) * args.columns;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      output.scale[half][i] = __half2float(__ushort_as_half(job.row_scale[row + 8 * half + 2 * t + i]));
      output.shift[half][i] = -sum * output.scale[half][i];
    }
  }
  const int tile = job.band_tile(row);
  const int64_t stride = static_cast<int64_t>(args.groups) * 64;  // a lane's two pairs of words of a tile lie together
  const uint2* first = reinterpret_cast<const uint2*>(args.tiles) + 2 * lane;
  const uint2* before = first + (tile > 0 ? tile - 1 : job.tile_count() - 1) * stride;  // the ring
  first += tile * stride;
  launch_dependents();
  dependency_wait();
  const auto load = [&](int at, uint2(&words)[kRate + 1]) {  // of half a group
    const int from = at / 2 * 64 + at % 2;
    words[0] = __ldg(before + from);
#pragma unroll
    for (int i = 0; i < kRate; ++i) words[i + 1] = __ldg(first + i * stride + from);
  };
  uint2 words[kRate + 1], next[kRate + 1];
  load(2 * first_group, words);
#pragma unroll 1
  for (int at = 2 * first_group; at < 2 * last_group; ++at) {
    load(min(at + 1, 2 * last_group - 1), next);
    decode_half<kRate>(words, band, output, at / 2 * kGroupColumns + band_column(at % 2, 2 * t, 0), args.columns, t);
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
