// Products of 9 to 64 tokens with planes: a warp decodes 16 rows by the tensor cores (band_decode.h), whose sums are, as halves, the
// operand of a second product with the tokens. Weights are never written anywhere.
#include <cuda_fp16.h>

#include "kernels/cuda/band_decode.h"
#include "kernels/cuda/band_linear.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kWordBlocks = 4;                       // instructions for the 32 columns of a word
constexpr int kTokenBytes = kGroupColumns * 2 + 64;  // of a token's group in shared memory: 8 lanes read 8 x 16 bytes of all banks
constexpr int kPieces = kGroupColumns * 2 / 16;      // of 16 bytes of a token's group

// kTokens: 16, 32 or 64. kUnits: of 16 rows, of a thread block; its warps share out the columns of each.
template <int kTokens, int kUnits>
struct BandLinear {
  static constexpr int kSlices = kWarps / kUnits, kStages = 2;
  static constexpr int kInputBytes = kTokens * kTokenBytes;  // of a group

  // Shared memory: taps [units][steps][lanes] of 16 bytes, then of each stage the inputs of the slices and the tiles of the warps.
  static int tap_bytes(int steps) { return kUnits * steps * kTileBytes; }
  static int stage_bytes(int steps) { return kSlices * kInputBytes + kWarps * steps * kTileBytes; }
  static int shared_bytes(int steps) {
    const int loop = tap_bytes(steps) + kStages * stage_bytes(steps), sums = kWarps * kBandRows * kTokens * 4;
    return loop > sums ? loop : sums;
  }
};

// A warp's rows and columns.
struct BandShare {
  int unit, slice, row, rate, steps, first_tile, first_group, groups, most_groups;

  __device__ BandShare(const BandArgs& args, const PlaneJob& job, int block, int warp, int units) {
    const int slices = kWarps / units;
    unit = warp % units, slice = warp / units;
    row = (block * units + unit) * kBandRows;
    first_group = args.groups * slice / slices, groups = args.groups * (slice + 1) / slices - first_group;
    most_groups = (args.groups + slices - 1) / slices;
    if (row >= job.rows) {
      rate = steps = groups = first_tile = 0;
      return;
    }
    rate = job.rate[row / kRangeRows], steps = rate + 1;
    first_tile = (job.newest[row / kRangeRows] - rate + 1 + row % kRangeRows * rate) / kTileRows - 1;
  }
  __device__ int tile(const PlaneJob& job, int step) const {
    const int tile = first_tile + step;
    return tile < 0 ? tile + job.tile_count() : tile;  // the ring
  }
};

__device__ __forceinline__ void copy_async_or_zero(uint32_t shared, const void* global, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(exists ? 16 : 0) : "memory");
}

// The taps of a warp's rate as operand A, in shared memory.
__device__ void write_band(const PlaneJob& job, const BandShare& share, int slices, int lane, uint4* band) {
  const float* taps = job.taps + share.rate * kMaxTaps;
  const int window = job.windows[share.rate], g = lane / 4, t = lane % 4;
  for (int step = share.slice; step < share.steps; step += slices) {
    uint32_t a[4];
    for (int i = 0; i < 4; ++i) {
      float value[2];
      for (int j = 0; j < 2; ++j) {
        const int tap = band_tap(share.rate, g + 8 * (i % 2), step, slot_row(2 * t + j + 8 * (i / 2)));
        value[j] = tap >= 0 && tap < window ? taps[tap] : 0.0f;
      }
      const __half2 pair = __floats2half2_rn(value[0], value[1]);
      a[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    band[step * 32 + lane] = make_uint4(a[0], a[1], a[2], a[3]);
  }
}

__device__ __forceinline__ uint32_t halves_of(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <int kTokens, int kUnits>
__global__ void __launch_bounds__(kWarps * 32, 1) band_linear_kernel(const __grid_constant__ BandArgs args) {
  using Kernel = BandLinear<kTokens, kUnits>;
  extern __shared__ __align__(128) uint8_t shared[];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  int index = 0;
  while (index + 1 < args.jobs && static_cast<int>(blockIdx.x) >= args.first_block[index + 1]) ++index;
  const PlaneJob& job = args.job[index];
  const int block = static_cast<int>(blockIdx.x) - args.first_block[index];
  const BandShare share(args, job, block, warp, kUnits);
  launch_dependents();

  uint4* band = reinterpret_cast<uint4*>(shared) + share.unit * args.most_steps * 32;
  write_band(job, share, Kernel::kSlices, lane, band);
  const int tap_bytes = kUnits * args.most_steps * kTileBytes;
  const int stage_bytes = Kernel::kSlices * Kernel::kInputBytes + kWarps * args.most_steps * kTileBytes;
  const uint32_t base = shared_address(shared) + tap_bytes;
  const uint32_t own_tiles = Kernel::kSlices * Kernel::kInputBytes + warp * args.most_steps * kTileBytes;
  const auto* tiles = static_cast<const uint4*>(job.tiles);
  const auto read_tiles = [&](int n) {  // group n of the warp's
    if (n >= share.groups) return;
    const uint32_t to = base + n % Kernel::kStages * stage_bytes + own_tiles + lane * 16;
    for (int step = 0; step < share.steps; ++step)
      copy_async(to + step * kTileBytes,
                 tiles + (static_cast<int64_t>(share.tile(job, step)) * args.groups + share.first_group + n) * 32 + lane);
  };
  const auto read_input = [&](int n) {  // group n of every slice
    const auto* input = static_cast<const __half*>(args.input);
    for (int i = static_cast<int>(threadIdx.x); i < Kernel::kSlices * kTokens * kPieces; i += kWarps * 32) {
      const int piece = i % kPieces, token = i / kPieces % kTokens, slice = i / (kPieces * kTokens);
      const int group = args.groups * slice / Kernel::kSlices + n, column = group * kGroupColumns + piece * 8;
      const bool exists = token < args.tokens && group < args.groups * (slice + 1) / Kernel::kSlices && column < args.columns;
      copy_async_or_zero(base + n % Kernel::kStages * stage_bytes + slice * Kernel::kInputBytes + token * kTokenBytes + piece * 16,
                         exists ? input + static_cast<int64_t>(token) * args.columns + column : input, exists);
    }
  };

  float sum[kTokens / 8][4] = {};
  read_tiles(0);
  dependency_wait();
  read_input(0);
  copy_commit();
  const uint32_t byte = g / 2, selector = byte | byte << 4 | (4 + byte) << 8 | (4 + byte) << 12;
  for (int n = 0; n < share.most_groups; ++n) {
    if (n + 1 < share.most_groups) read_tiles(n + 1), read_input(n + 1);
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    if (n < share.groups) {
      const uint32_t stage = base + n % Kernel::kStages * stage_bytes;
      const uint32_t bits_at = stage + own_tiles + 4 * t * 16,
                     input_at = stage + share.slice * Kernel::kInputBytes + g * kTokenBytes + 16 * t;
      for (int word = 0; word < 4; ++word) {
        float value[2][kWordBlocks][4] = {};
        for (int step = 0; step < share.steps; ++step) {
          const uint4 taps = band[step * 32 + lane];
          const uint32_t a[4] = {taps.x, taps.y, taps.z, taps.w};
          const uint4 near = load_shared(bits_at + step * kTileBytes + word * 16),
                      far = load_shared(bits_at + step * kTileBytes + word * 16 + 256);
          const uint32_t bits[2][2] = {{__byte_perm(near.x, near.y, selector), __byte_perm(far.x, far.y, selector)},
                                       {__byte_perm(near.z, near.w, selector), __byte_perm(far.z, far.w, selector)}};
#pragma unroll
          for (int part = 0; part < 2; ++part)
#pragma unroll
            for (int i = 0; i < kWordBlocks; ++i)
              mma_halves(value[part][i], a, band_halves(bits[part][0], i, g), band_halves(bits[part][1], i, g));
        }
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          uint32_t weight[2][4];  // 16 rows x 16 columns each: a lane's columns are 4 neighbouring ones
#pragma unroll
          for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float(&of)[4] = value[part][2 * half + i / 2];
              weight[half][i] = halves_of(of[2 * (i % 2)], of[2 * (i % 2) + 1]);
            }
#pragma unroll
          for (int j = 0; j < kTokens / 8; ++j) {
            const uint4 x = load_shared(input_at + 8 * j * kTokenBytes + 64 * (word + 4 * part));
            mma_halves(sum[j], weight[0], x.x, x.y);
            mma_halves(sum[j], weight[1], x.z, x.w);
          }
        }
      }
    }
    __syncthreads();  // the stage is written again
  }

  // Sums of the slices, in turn.
  copy_wait<0>();
  float* sums = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[(warp * kTokens + 8 * j + 2 * t + i % 2) * kBandRows + g + 8 * (i / 2)] = sum[j][i];
  __syncthreads();
  constexpr int kRows = kUnits * kBandRows;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * args.tokens; i += kWarps * 32) {
    const int token = i / kRows, unit = i % kRows / kBandRows, r = i % kBandRows, row = block * kRows + i % kRows;
    if (row >= job.rows) continue;
    float total = 0.0f;
#pragma unroll
    for (int slice = 0; slice < Kernel::kSlices; ++slice) total += sums[((slice * kUnits + unit) * kTokens + token) * kBandRows + r];
    total *= __half2float(__ushort_as_half(job.row_scale[row]));
    if (job.bias) total += job.bias[row];
    float* output = job.output + static_cast<int64_t>(token) * job.rows + row;
    *output = args.adds ? *output + total : total;
  }
}

int most_shared_bytes() {
  int device = 0, bytes = 0;
  expect(cudaGetDevice(&device), "device");
  expect(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory");
  return bytes;
}

template <int kTokens, int kUnits>
void start(BandArgs args, cudaStream_t stream) {
  for (int m = 0; m < args.jobs; ++m)
    args.first_block[m + 1] = args.first_block[m] + (args.job[m].rows + kUnits * kBandRows - 1) / (kUnits * kBandRows);
  launch(&band_linear_kernel<kTokens, kUnits>, dim3(static_cast<unsigned>(args.first_block[args.jobs])), kWarps * 32,
         BandLinear<kTokens, kUnits>::shared_bytes(args.most_steps), stream, args);
}

// Calls `use` with the form for so many tokens.
template <typename Use>
auto with_form(int tokens, const Use& use) {
  if (tokens <= 16) return use.template operator()<16, 2>();
  if (tokens <= 32) return use.template operator()<32, 2>();
  return use.template operator()<64, 4>();
}

}  // namespace

bool fits_band_linear(const BandArgs& args) {
  return with_form(args.tokens, [&]<int kTokens, int kUnits>() {
    return BandLinear<kTokens, kUnits>::shared_bytes(args.most_steps) <= most_shared_bytes();
  });
}

void band_linear(const BandArgs& args, cudaStream_t stream) {
  with_form(args.tokens, [&]<int kTokens, int kUnits>() { start<kTokens, kUnits>(args, stream); });
}

}  // namespace tq::cuda
