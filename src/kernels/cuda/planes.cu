// Launches of the plane kernels, and the planes decoded: for prompts, for rows of an embedding. Gradients turned back from their basis.
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/band_decode.h"
#include "kernels/cuda/half_terms.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/plane_rows.cuh"
#include "kernels/cuda/quantize_kernel.cuh"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

constexpr int kFewStages = 3;           // where shared memory is small
constexpr int kLeastShared = 99 << 10;  // that a thread block may have: of compute capability 8.6 and 8.9
static_assert(PlaneLinear<1, 16, kFewStages>::with_groups(kMaxRoundGroups) <= kLeastShared);
static_assert(PlaneLinear<2, 16, kFewStages>::with_groups(kMaxRoundGroups / 2) <= kLeastShared);
static_assert(PlaneLinear<4, 16, kFewStages>::with_groups(kWarpGroups) <= kLeastShared);
static_assert(PlaneLinear<8, kFewBits, kFewStages>::with_groups(kWarpGroups) <= kLeastShared);

// kStages: what won in lab/cuda-planes.
template <int kTokens, int kBits, int kStages>
void launch_linear(const PlaneArgs& args, const PlanePlan& plan, cudaStream_t stream) {
  const int own_bytes = PlaneLinear<kTokens, kBits, kStages>::shared_bytes(plan.split);
  if constexpr (kStages > kFewStages)
    if (own_bytes > args.most_shared) return launch_linear<kTokens, kBits, kFewStages>(args, plan, stream);
  const int shared_bytes = std::max(own_bytes, args.least_shared);
  launch(&plane_linear_kernel<kTokens, kBits, kStages>, dim3(static_cast<unsigned>(plan.blocks())), kProductWarps * 32, shared_bytes,
         stream, args);
}

// Bit `row` of the bytes of a line's word, which are columns.
__device__ __forceinline__ uint32_t line_bits(uint32_t word, int row) { return ((word >> row & 0x01010101u) * 0x01020408u) >> 24 & 15u; }

// A line of the file has 128 plane rows x 4 columns; bit j of word i's bytes belongs to plane row 16 j + i.
__global__ void repack_kernel(const uint32_t* lines, int64_t lines_of_row, int blocks, int groups, uint32_t* tiles) {
  const int64_t count = static_cast<int64_t>(blocks) * 8 * groups * (kTileBytes / 4);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count; i += step) {
    const int part = static_cast<int>(i % 4), lane = static_cast<int>(i / 4 % 32);
    const int row = lane / 4 + 8 * (part % 2), word = lane % 4 + 4 * (part / 2);
    const int64_t tile = i / 128, tile_row = tile / groups, first = (tile % groups * 8 + word) * 8;
    const uint32_t* from = lines + (tile_row / 8 * lines_of_row + first) * 16 + row;
    uint32_t bits = 0;
    for (int k = 0; k < 8 && first + k < lines_of_row; ++k) bits |= line_bits(from[k * 16], static_cast<int>(tile_row % 8)) << (4 * k);
    tiles[i] = bits;
  }
}

// The columns 32 word + 0..31 of plane row p; `word` counts along the whole row.
__device__ __forceinline__ uint32_t plane_word(const uint32_t* tiles, int groups, int p, int word) {
  return tiles[(static_cast<int64_t>(p / kTileRows) * groups + word / 8) * 128 + tile_word(p % kTileRows, word % 8)];
}

// Bit i of lane j goes to bit j of lane i.
__device__ __forceinline__ uint32_t transpose_warp(uint32_t bits, int lane) {
  constexpr uint32_t kLow[5] = {0x55555555u, 0x33333333u, 0x0f0f0f0fu, 0x00ff00ffu, 0x0000ffffu};
#pragma unroll
  for (int i = 4; i >= 0; --i) {
    const int step = 1 << i;
    const uint32_t other = __shfl_xor_sync(0xffffffffu, bits, step);
    bits = lane & step ? (bits & ~kLow[i]) | (other >> step & kLow[i]) : (bits & kLow[i]) | (other & kLow[i]) << step;
  }
  return bits;
}

// The bits of a column from plane row `start` on, oldest first; a warp reads 32 columns together.
struct ColumnBits {
  const DecodeArgs& args;
  int word, lane, next, available;
  uint64_t bits;  // the oldest one highest

  __device__ ColumnBits(const DecodeArgs& args_, int word_, int lane_, int start)
      : args(args_), word(word_), lane(lane_), next(start / 32 * 32), available(0), bits(0) {
    refill();
    bits <<= start % 32, available -= start % 32;
  }
  __device__ void refill() {
    // Behind the last row no tile need be: of a cut, tiles in front are left out (load_planes). Whatever is read for it is never taken.
    const int row = min(next + lane, args.job.plane_rows - 1);
    const uint32_t more = transpose_warp(plane_word(args.tiles, args.groups, row, word), lane);
    bits |= static_cast<uint64_t>(__brev(more)) << (32 - available);
    next += 32, available += 32;
  }
  __device__ uint32_t take(int count) {
    if (available < count) refill();
    const auto taken = static_cast<uint32_t>(bits >> (64 - count));
    bits <<= count, available -= count;
    return taken;
  }
};

constexpr int kDecodeColumns = 128, kDecodeRows = 128, kTableParts = 3;

// Sums of taps by the newest 8, next 8 and oldest 8 bits.
__device__ void fill_tables(const PlaneJob& job, int rate, float (*table)[256]) {
  for (int n = static_cast<int>(threadIdx.x); n < kTableParts * 256; n += kDecodeColumns) {
    const int part = n / 256;
    float sum = 0.0f;
    for (int j = 0; j < 8; ++j) {
      const int tap = 8 * part + j;
      if (tap < job.windows[rate]) sum += n >> j & 1 ? job.taps[rate * kMaxTaps + tap] : -job.taps[rate * kMaxTaps + tap];
    }
    table[part][n % 256] = sum;
  }
}

// A thread a column, walking down kDecodeRows rows. grid (columns / kDecodeColumns, rows / kDecodeRows)
__global__ void __launch_bounds__(kDecodeColumns) decode_kernel(const __grid_constant__ DecodeArgs args) {
  __shared__ float tables[kDecodeRows / 32][kTableParts][256];
  const PlaneJob& job = args.job;
  const int first = args.first + static_cast<int>(blockIdx.y) * kDecodeRows, last = min(first + kDecodeRows, args.first + args.count) - 1;
  for (int r = first / 32; r <= last / 32; ++r) fill_tables(job, job.rate[r], tables[r - first / 32]);
  __syncthreads();
  const int k = static_cast<int>(blockIdx.x) * kDecodeColumns + static_cast<int>(threadIdx.x), lane = k % 32;
  if (k - lane >= args.columns) return;
  const int start = job.newest[first / 32] - job.rate[first / 32] + 1;
  uint32_t state = 0;
  for (int back = kMaxTaps; back >= 1; --back) {
    int p = start - back;
    while (p < 0) p += job.plane_rows;
    state = state << 1 | (plane_word(args.tiles, args.groups, p, k / 32) >> lane & 1u);
  }
  ColumnBits bits(args, k / 32, lane, start);
  dependency_wait();  // for the output alone
  for (int row = first; row <= last; ++row) {
    const int rate = job.rate[row / 32];
    state = state << rate | bits.take(rate);
    const float(*table)[256] = tables[row / 32 - first / 32];
    const float value = __half2float(__ushort_as_half(job.row_scale[row])) *
                        (table[0][state & 255] + table[1][state >> 8 & 255] + table[2][state >> 16 & 255]);
    const int64_t at = static_cast<int64_t>(row - args.first) * args.columns;
    if (k >= args.columns) continue;
    if (args.half_output) static_cast<__half*>(args.half_output)[at + half_place(k, args.columns)] = __float2half_rn(value);
    else args.output[at + k] = value;
  }
}

// The groups of a token, or a part of them: grid (tokens, parts). One of the outputs, [T, columns], is null.
__global__ void __launch_bounds__(kQuantizeWarps * 32)
    rotate_input_kernel(const __grid_constant__ QuantizeArgs args, __half* half_output, float* output) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int groups = (args.columns + kGroupColumns - 1) / kGroupColumns, step = static_cast<int>(gridDim.y) * kQuantizeWarps;
  launch_dependents();
  dependency_wait();
  const int64_t token = blockIdx.x;
  const float factor = norm_factor<kQuantizeWarps>(args.input, args.columns, token);
#pragma unroll 2
  for (int group = static_cast<int>(blockIdx.y) * kQuantizeWarps + warp; group < groups; group += step) {
    GroupInput input;
    input.read_weights(args, group, lane);
    input.read_input(args, token, group, lane);
    float squares;
    const Group values = input.rotate(args, lane, squares);
    const int first = group * kGroupColumns + 8 * lane;
    if (half_output) values.store_rounded(half_output + token * args.columns, first, args.columns, factor);
    else values.store(output + token * args.columns, first, args.columns, factor);
  }
}

// A warp 256 columns of a row: grid (groups / kQuantizeWarps, tokens).
__global__ void __launch_bounds__(kQuantizeWarps * 32)
    embed_planes_kernel(const __grid_constant__ DecodeArgs table, const uint8_t* sign, const int32_t* tokens, float scale) {
  dependency_wait();
  launch_dependents();  // behind the wait: places are known to all that follows
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = static_cast<int>(blockIdx.x) * kQuantizeWarps + static_cast<int>(threadIdx.x) / 32;
  if (group * kGroupColumns >= table.columns) return;
  const PlaneJob& job = table.job;
  const int row = tokens[blockIdx.y], rate = job.rate[row / 32], newest = job.newest[row / 32] + row % 32 * rate;
  Group values;
#pragma unroll
  for (int i = 0; i < 8; ++i) values.value[i] = 0.0f;
  for (int j = 0; j < job.windows[rate]; ++j) {
    int p = newest - j;
    while (p < 0) p += job.plane_rows;
    const float tap = job.taps[rate * kMaxTaps + j];
    const uint32_t bits = plane_word(table.tiles, table.groups, p, group * 8 + lane / 4) >> (8 * (lane % 4));
#pragma unroll
    for (int i = 0; i < 8; ++i) values.value[i] += bits >> i & 1u ? tap : -tap;
  }
  values.hadamard(table.hadamard, lane);
  const float row_scale = scale * __half2float(__ushort_as_half(job.row_scale[row]));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int k = group * kGroupColumns + 8 * lane + i;
    if (k >= table.columns) continue;
    const float value = values.value[i] * row_scale;
    table.output[static_cast<int64_t>(blockIdx.y) * table.columns + k] = sign[k / 8] >> (k % 8) & 1 ? -value : value;
  }
}

// A warp 256 columns of a token: grid (groups / kQuantizeWarps, tokens).
__global__ void __launch_bounds__(kQuantizeWarps * 32) unrotate_kernel(const Unrotate args) {
  launch_dependents();
  dependency_wait();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = static_cast<int>(blockIdx.x) * kQuantizeWarps + static_cast<int>(threadIdx.x) / 32;
  if (group * kGroupColumns >= args.columns) return;
  const int first = group * kGroupColumns + 8 * lane;
  const int64_t row = blockIdx.y * static_cast<int64_t>(args.columns);
  Group values;
#pragma unroll
  for (int i = 0; i < 8; ++i) values.value[i] = first + i < args.columns ? args.input[row + first + i] : 0.0f;
  values.hadamard(args.hadamard, lane);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int k = first + i;
    if (k >= args.columns) continue;
    const float value = args.sign[k / 8] >> (k % 8) & 1 ? -values.value[i] : values.value[i];
    args.output[row + k] = args.accumulate ? args.output[row + k] + value : value;
  }
}

dim3 group_grid(int columns, int tokens, int warps = kQuantizeWarps) {
  const int groups = (columns + kGroupColumns - 1) / kGroupColumns;
  return dim3(static_cast<unsigned>((groups + warps - 1) / warps), static_cast<unsigned>(tokens));
}

void round_halves(const QuantizeArgs& args, cudaStream_t stream) {
  const int groups = (args.columns + kGroupColumns - 1) / kGroupColumns, of_warp = (groups + kRoundWarps - 1) / kRoundWarps;
  const auto kernel = of_warp == 1   ? &round_halves_kernel<1>
                      : of_warp == 2 ? &round_halves_kernel<2>
                      : of_warp <= 4 ? &round_halves_kernel<4>
                                     : &round_halves_kernel<kMostRoundGroups>;
  launch(kernel, dim3(static_cast<unsigned>(args.tokens)), kRoundWarps * 32, 0, stream, args);
}

}  // namespace

void quantize(const QuantizeArgs& args, cudaStream_t stream) {
  if (args.to == Rounded::kHalves) return round_halves(args, stream);
  launch(args.to == Rounded::kBytes ? &quantize_kernel<true> : &quantize_kernel<false>, group_grid(args.columns, args.tokens, kRoundWarps),
         kRoundWarps * 32, 0, stream, args);
}

int plane_linear_shared(const PlanePlan& plan) {
  switch (plan.form.tokens) {
    case 1: return PlaneLinear<1, 16, kFewStages>::shared_bytes(plan.split);
    case 2: return PlaneLinear<2, 16, kFewStages>::shared_bytes(plan.split);
    case 4: return PlaneLinear<4, 16, kFewStages>::shared_bytes(plan.split);
    default: return PlaneLinear<8, kFewBits, kFewStages>::shared_bytes(plan.split);
  }
}

void plane_linear(const PlaneArgs& args, const PlanePlan& plan, cudaStream_t stream) {
  switch (plan.form.tokens) {
    case 1: return launch_linear<1, 16, 5>(args, plan, stream);
    case 2: return launch_linear<2, 16, 4>(args, plan, stream);
    case 4: return launch_linear<4, 16, 5>(args, plan, stream);
    default: return launch_linear<8, kFewBits, 5>(args, plan, stream);
  }
}

bool plane_rows(const PlaneRowsArgs& args, cudaStream_t stream) {
  using Least = PlaneRows<4, 2>;
  PlaneRowsArgs whole = args;  // parts go the way of the whole
  whole.owners.most_rows = args.owners.bound_rows, whole.owners.most_planes = args.owners.bound_planes;
  if (whole.owners.most_planes >= Least::kMostPlanes || Least::shared_bytes(whole) > args.most_shared) return false;
  const auto start = [&](auto kernel, int shared_bytes) {
    if (shared_bytes > args.most_shared) return false;
    launch_clusters(kernel, dim3(static_cast<unsigned>(args.owners.first[args.jobs])), dim3(static_cast<unsigned>(args.owners.slices)),
                    kProductWarps * 32, std::max(shared_bytes, args.least_shared), stream, args);
    return true;
  };
  return start(&plane_rows_kernel<5, 4>, PlaneRows<5, 4>::shared_bytes(args)) ||
         start(&plane_rows_kernel<5, 2>, PlaneRows<5, 2>::shared_bytes(args)) || start(&plane_rows_kernel<4, 2>, Least::shared_bytes(args));
}

void repack(const uint32_t* lines, int64_t lines_of_row, int blocks, int groups, uint32_t* tiles, cudaStream_t stream) {
  launch(&repack_kernel, dim3(2048), 256, 0, stream, lines, lines_of_row, blocks, groups, tiles);
}

void decode(const DecodeArgs& args, cudaStream_t stream) {
  if (args.half_output && decodes_bands(args.job, args.columns, args.first, args.count)) return decode_bands(args, stream);
  const dim3 grid(static_cast<unsigned>((args.columns + kDecodeColumns - 1) / kDecodeColumns),
                  static_cast<unsigned>((args.count + kDecodeRows - 1) / kDecodeRows));
  launch(&decode_kernel, grid, kDecodeColumns, 0, stream, args);
}

void rotate_input(const QuantizeArgs& args, void* half_output, float* output, cudaStream_t stream) {
  const auto most = static_cast<int>(group_grid(args.columns, args.tokens).x);
  const dim3 grid(static_cast<unsigned>(args.tokens), static_cast<unsigned>(token_parts(args.tokens, most)));
  launch(&rotate_input_kernel, grid, kQuantizeWarps * 32, 0, stream, args, static_cast<__half*>(half_output), output);
}

void embed_planes(const DecodeArgs& table, const uint8_t* sign, const int32_t* tokens, float scale, int count, cudaStream_t stream) {
  launch(&embed_planes_kernel, group_grid(table.columns, count), kQuantizeWarps * 32, 0, stream, table, sign, tokens, scale);
}

void unrotate(const Unrotate& args, cudaStream_t stream) {
  launch(&unrotate_kernel, group_grid(args.columns, args.tokens), kQuantizeWarps * 32, 0, stream, args);
}

}  // namespace tq::cuda
