// Launches of the plane kernels, and the planes decoded: for prompts, for rows of an embedding. Gradients turned back from their basis.
#include <cuda_fp16.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/plane_filter.cuh"
#include "kernels/cuda/plane_product.cuh"
#include "kernels/cuda/quantize.cuh"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

// What won in lab/cuda-planes.
constexpr int kProductWarps = 16;
constexpr int kProductStages = 6;
constexpr int kInputBytes = 66000;  // of shared memory, for the activations of a slice

template <int kColumns, bool kPair>
void launch_product(const ProductArgs& args, const ProductPlan& plan, cudaStream_t stream) {
  using Kernel = PlaneProduct<kColumns, kPair, kProductWarps, kProductStages>;
  launch(&plane_product_kernel<kColumns, kPair, kProductWarps, kProductStages>, dim3(static_cast<unsigned>(plan.blocks)),
         kProductWarps * 32, Kernel::shared_bytes(plan.split), stream, args);
}

__global__ void repack_kernel(const uint32_t* lines, int64_t lines_of_row, int blocks, int groups, uint32_t* tiles) {
  const int64_t tiles_of_row = static_cast<int64_t>(groups) * kGroupTiles, count = blocks * tiles_of_row * (kTileBytes / 4);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count; i += step) {
    const int part = static_cast<int>(i % 4), lane = static_cast<int>(i / 4 % 32);
    const int64_t tile = i / 128 % tiles_of_row, block = i / 128 / tiles_of_row;
    const LineWord from = fragment_word(lane, part);
    const int64_t line = tile * 8 + from.line;
    tiles[i] = line < lines_of_row ? lines[(block * lines_of_row + line) * 16 + from.word] : 0;
  }
}

// The word that holds plane row p of four columns: column / 4 counts along the whole row.
__device__ __forceinline__ uint32_t plane_word(const uint32_t* tiles, int groups, int p, int quad) {
  const int i = p % 16, tile = quad / 8, t = quad % 4, half = quad % 8 / 4;
  const int64_t at = (static_cast<int64_t>(p / kTileRows) * groups * kGroupTiles + tile) * 128 + (4 * (i % 8) + t) * 4 + i / 8 + 2 * half;
  return tiles[at];
}

constexpr int kDecodeColumns = 128, kDecodeRows = 128, kTableParts = 3;

// Sums of taps by the newest 8, next 8 and oldest 8 bits.
__device__ void fill_tables(const FilterJob& job, int rate, float (*table)[256]) {
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
  const FilterJob& job = args.job;
  const int first = args.first + static_cast<int>(blockIdx.y) * kDecodeRows, last = min(first + kDecodeRows, args.first + args.count) - 1;
  for (int r = first / 32; r <= last / 32; ++r) fill_tables(job, job.rate[r], tables[r - first / 32]);
  __syncthreads();
  const int k = static_cast<int>(blockIdx.x) * kDecodeColumns + static_cast<int>(threadIdx.x);
  if (k >= args.columns) return;
  const int quad = k / 4, shift = 8 * (k % 4);
  const int start = job.newest[first / 32] - job.rate[first / 32] + 1;
  uint32_t state = 0;
  for (int back = kMaxTaps; back >= 1; --back) {
    int p = start - back;
    while (p < 0) p += job.plane_rows;
    state = state << 1 | (plane_word(args.tiles, args.groups, p, quad) >> (shift + p % kTileRows / 16) & 1u);
  }
  int row = first, rate = job.rate[first / 32], left = rate;
  float scale = __half2float(__ushort_as_half(job.row_scale[first]));
  for (int block = start / kTileRows; row <= last; ++block) {
    uint32_t words[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) words[i] = plane_word(args.tiles, args.groups, block * kTileRows + i, quad) >> shift;
    for (int j = 0; j < 8 && row <= last; ++j) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        if (block * kTileRows + 16 * j + i < start || row > last) continue;
        state = state << 1 | (words[i] >> j & 1u);
        if (--left > 0) continue;
        const float(*table)[256] = tables[row / 32 - first / 32];
        const float value = scale * (table[0][state & 255] + table[1][state >> 8 & 255] + table[2][state >> 16 & 255]);
        const int64_t at = static_cast<int64_t>(row - args.first) * args.columns + k;
        if (args.half_output) static_cast<__half*>(args.half_output)[at] = __float2half_rn(value);
        else args.output[at] = value;
        if (++row > last) continue;
        rate = job.rate[row / 32], left = rate;
        scale = __half2float(__ushort_as_half(job.row_scale[row]));
      }
    }
  }
}

// A warp 256 columns of a token: grid (groups / kQuantizeWarps, tokens).
__global__ void __launch_bounds__(kQuantizeWarps * 32)
    rotate_input_kernel(const __grid_constant__ QuantizeArgs args, __half* half_output, float* output) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = static_cast<int>(blockIdx.x) * kQuantizeWarps + static_cast<int>(threadIdx.x) / 32;
  launch_dependents();
  dependency_wait();
  const int64_t token = blockIdx.y;
  const float factor = norm_factor(args, token);
  if (group * kGroupColumns >= args.columns) return;
  Group values;
  values.read(args, token, group, lane, factor);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int k = group * kGroupColumns + 8 * lane + i;
    if (k >= args.columns) continue;
    if (half_output) half_output[token * args.columns + k] = __float2half_rn(values.value[i]);
    else output[token * args.columns + k] = values.value[i];
  }
}

__global__ void __launch_bounds__(kQuantizeWarps * 32)
    embed_planes_kernel(const __grid_constant__ DecodeArgs table, const uint8_t* sign, const int32_t* tokens, float scale) {
  launch_dependents();
  dependency_wait();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = static_cast<int>(blockIdx.x) * kQuantizeWarps + static_cast<int>(threadIdx.x) / 32;
  if (group * kGroupColumns >= table.columns) return;
  const FilterJob& job = table.job;
  const int row = tokens[blockIdx.y], rate = job.rate[row / 32], newest = job.newest[row / 32] + row % 32 * rate,
            quad = group * 64 + 2 * lane;
  Group values;
#pragma unroll
  for (int i = 0; i < 8; ++i) values.value[i] = 0.0f;
  for (int j = 0; j < job.windows[rate]; ++j) {
    int p = newest - j;
    while (p < 0) p += job.plane_rows;
    const float tap = job.taps[rate * kMaxTaps + j];
    const int bit = p % kTileRows / 16;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t word = plane_word(table.tiles, table.groups, p, quad + i / 4);
      values.value[i] += word >> (8 * (i % 4) + bit) & 1u ? tap : -tap;
    }
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

dim3 group_grid(int columns, int tokens) {
  const int groups = (columns + kGroupColumns - 1) / kGroupColumns;
  return dim3(static_cast<unsigned>((groups + kQuantizeWarps - 1) / kQuantizeWarps), static_cast<unsigned>(tokens));
}

}  // namespace

ProductPlan plan_product(int columns, int plane_blocks, int tokens, int multiprocessors) {
  ProductPlan plan;
  plan.form = form_of(tokens);
  Split& split = plan.split;
  split.groups = (columns + kGroupColumns - 1) / kGroupColumns;
  split.blocks = plane_blocks;
  while (split.slices < split.groups &&
         (split.groups * kGroupTiles * plan.form.columns * 32 + split.slices - 1) / split.slices > kInputBytes)
    ++split.slices;
  const int of_slice = multiprocessors / split.slices > 0 ? multiprocessors / split.slices : 1;
  plan.blocks = of_slice * split.slices;
  split.warps_per_slice = of_slice * kProductWarps;
  for (int i = 0; i < split.slices; ++i) {
    const Slice part = split.slice(i);
    const uint32_t units = part.tiles / kUnitTiles, share = split.units(part) / split.workers(part);
    const int slots = static_cast<int>((units + share - 1) / share) + 1;
    if (slots > split.slots_per_slice) split.slots_per_slice = slots;
  }
  return plan;
}

int64_t partial_floats(const ProductPlan& plan) {
  const Split& split = plan.split;
  return static_cast<int64_t>(split.slices) * split.slots_per_slice * plan.form.tokens() * split.blocks * kTileRows;
}

void quantize(const QuantizeArgs& args, cudaStream_t stream) {
  launch(&quantize_kernel, group_grid(args.columns, args.tokens), kQuantizeWarps * 32, 0, stream, args);
}

void product(const ProductArgs& args, const ProductPlan& plan, cudaStream_t stream) {
  if (plan.form.columns == 2) launch_product<2, true>(args, plan, stream);
  else if (plan.form.columns == 4) launch_product<4, true>(args, plan, stream);
  else if (plan.form.is_pair) launch_product<8, true>(args, plan, stream);
  else launch_product<8, false>(args, plan, stream);
}

void filter(const FilterArgs& args, cudaStream_t stream) {
  launch(&plane_filter_kernel, dim3(static_cast<unsigned>(args.row_blocks), static_cast<unsigned>(args.tokens)), kFilterThreads, 0, stream,
         args);
}

void repack(const uint32_t* lines, int64_t lines_of_row, int blocks, int groups, uint32_t* tiles, cudaStream_t stream) {
  launch(&repack_kernel, dim3(2048), 256, 0, stream, lines, lines_of_row, blocks, groups, tiles);
}

void decode(const DecodeArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((args.columns + kDecodeColumns - 1) / kDecodeColumns),
                  static_cast<unsigned>((args.count + kDecodeRows - 1) / kDecodeRows));
  launch(&decode_kernel, grid, kDecodeColumns, 0, stream, args);
}

void rotate_input(const QuantizeArgs& args, void* half_output, float* output, cudaStream_t stream) {
  launch(&rotate_input_kernel, group_grid(args.columns, args.tokens), kQuantizeWarps * 32, 0, stream, args,
         static_cast<__half*>(half_output), output);
}

void embed_planes(const DecodeArgs& table, const uint8_t* sign, const int32_t* tokens, float scale, int count, cudaStream_t stream) {
  launch(&embed_planes_kernel, group_grid(table.columns, count), kQuantizeWarps * 32, 0, stream, table, sign, tokens, scale);
}

void unrotate(const Unrotate& args, cudaStream_t stream) {
  launch(&unrotate_kernel, group_grid(args.columns, args.tokens), kQuantizeWarps * 32, 0, stream, args);
}

}  // namespace tq::cuda
