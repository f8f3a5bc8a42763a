// The product of bit planes with rounded activations on the binary tensor cores, and its outputs (docs/kernels.md, "Planes").
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plane_filter.cuh"
#include "kernels/cuda/plane_types.h"
#include "kernels/cuda/quantize.cuh"

namespace tq::cuda {

// Pairs of tiles' rows that a warp multiplies between two sums over the warps of a thread block.
template <int kTokens>
constexpr int kPairsOfChunk = kTokens == 8 ? 2 : 4;

// The counts of one tile, [products][4]: rows g, g + 8 x columns 2 t, 2 t + 1 of a lane.
template <int kTokens, int kBits>
struct TileCounts {
  static constexpr int kProducts = kTokens * kBits / 8;
  int count[kProducts][4];

  // Column i of the lane's put together from its bits. top: the last one's value, negative in a token's last column.
  __device__ int column(int i, int top) const {
    int sum = count[0][i];
#pragma unroll
    for (int j = 1; j + 1 < kProducts; ++j) sum += count[j][i] << j;
    return count[kProducts - 1][i] * top + sum;
  }
};

// A warp's sums of two tiles over its groups. A lane adds what its own columns hold; finish() adds the lanes of a quad, each of which then
// keeps values of row(lane, r) of tile(lane, r) and of the tokens token(lane, i).
template <int kTokens, int kBits>
struct PairSums {
  using Counts = TileCounts<kTokens, kBits>;
  static constexpr int kOwn = kTokens == 1 ? 1 : 2;                                                         // tokens of a lane's columns
  static constexpr int kRows = kTokens == 8 ? 4 : kTokens == 1 ? 1 : 2, kOwnTokens = kTokens >= 4 ? 2 : 1;  // after finish()
  float value[4][kOwn] = {};  // rows g, g + 8 of the first tile, then of the second

  static __device__ int tile(int lane, int r) { return kTokens == 8 ? r / 2 : kTokens == 1 ? lane % 2 : r; }
  static __device__ int row(int lane, int r) { return lane / 4 + 8 * (kTokens == 8 ? r % 2 : lane % 4 / 2); }
  static __device__ int token(int lane, int i) {
    const int t = lane % 4;
    return kTokens == 8 ? 2 * t + i : kTokens == 4 ? 2 * (t % 2) + i : kTokens == 2 ? t % 2 : 0;
  }
  // What the lane's columns count, and the token of its column i.
  static __device__ float unit(int lane) {
    const int t = lane % 4;
    return static_cast<float>(kTokens == 8 ? 1 : kTokens == 4 ? 1 << 8 * (t / 2) : 1 << 4 * t);
  }
  static __device__ int column_token(int lane, int i) { return (lane % 4 * 2 + i) % kTokens; }
  static __device__ int top(int lane) {
    constexpr int kHigh = 1 << (Counts::kProducts - 1);
    return lane % 4 * 2 + 1 + kTokens >= 8 ? -kHigh : kHigh;
  }

  // scale: of the columns' tokens, times unit(lane). An even column never holds the sign of a single token.
  __device__ void add(const Counts (&counts)[2], int top, const float (&scale)[kOwn]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const Counts& of = counts[r / 2];
      const int i = r % 2 * 2;
      if constexpr (kTokens == 1) {
        const int sum = of.column(i, 1 << (Counts::kProducts - 1)) + (of.column(i + 1, top) << Counts::kProducts);
        value[r][0] = fmaf(scale[0], static_cast<float>(sum), value[r][0]);
      } else {
#pragma unroll
        for (int k = 0; k < kOwn; ++k) value[r][k] = fmaf(scale[k], static_cast<float>(of.column(i + k, top)), value[r][k]);
      }
    }
  }
  __device__ void finish(int lane, float (&out)[kRows][kOwnTokens]) const {
    const bool is_lower = lane & 2, is_odd = lane & 1;
    if constexpr (kTokens == 8) {
#pragma unroll
      for (int i = 0; i < 8; ++i) out[i / 2][i % 2] = value[i / 2][i % 2];
    } else if constexpr (kTokens == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i / 2][i % 2] = trade(is_lower, value[i / 2 * 2][i % 2], value[i / 2 * 2 + 1][i % 2], 2);
    } else if constexpr (kTokens == 2) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        out[i][0] = trade(is_odd, trade(is_lower, value[2 * i][0], value[2 * i + 1][0], 2),
                          trade(is_lower, value[2 * i][kOwn - 1], value[2 * i + 1][kOwn - 1], 2), 1);
    } else {
      out[0][0] = trade(is_lower, trade(is_odd, value[0][0], value[2][0], 1), trade(is_odd, value[1][0], value[3][0], 1), 2);
    }
  }
  // Of two values the first, or the second where `second`, plus what the lane `step` away has of it.
  static __device__ float trade(bool second, float a, float b, int step) {
    return (second ? b : a) + __shfl_xor_sync(0xffffffffu, second ? a : b, step);
  }
};

// The part of a launch that falls to a thread block, and of it to a warp.
struct Share {
  int slice, first_tile, tiles;   // of the thread block; tiles count in the launch
  Range groups;                   // of the slice
  int part, phase, first, count;  // of the warp: groups, counted in the slice
  bool is_active;

  __device__ Share(const Split& split, int warp) {
    const int block = static_cast<int>(blockIdx.x);
    slice = block / split.of_slice;
    first_tile = split.first_tile(block % split.of_slice), tiles = split.first_tile(block % split.of_slice + 1) - first_tile;
    groups = split.groups_of(slice);
    part = warp % split.parts, phase = warp / split.parts;
    first = part * kWarpGroups, count = min(kWarpGroups, groups.count - first);
    is_active = phase < split.phases && count > 0;
  }
};

// A warp's tiles on their way into its ring in shared memory, by asynchronous copies: every lane copies what it alone will read, so that
// no barrier is needed. A stage is a pair of rows of tiles of one group; the warp's groups come in turn, then the next pair.
template <int kStages>
struct TileStream {
  static constexpr int kStageBytes = 2 * kTileBytes, kBytes = kStages * kStageBytes;
  const PlaneArgs& args;
  uint32_t base, slot;  // shared addresses of this lane's part of the ring and of its oldest stage
  int next, end, job_end = 0, step, count;
  uint32_t column;  // bytes
  const char* at[2] = {};

  __device__ TileStream(const PlaneArgs& args_, const Share& share, uint4* ring, int lane) : args(args_) {
    base = slot = shared_address(ring + lane);
    end = share.is_active ? share.first_tile + share.tiles : 0;
    step = 2 * args.split.phases;
    next = share.first_tile + 2 * share.phase - step;
    count = share.count;
    column = static_cast<uint32_t>((share.groups.first + share.first) * 32 + lane) * 16;
  }
  __device__ const char* address(int tile) {
    int index = 0;
    while (index + 1 < args.jobs && tile >= args.job[index + 1].first_tile) ++index;
    const PlaneJob& job = args.job[index];
    job_end = index + 1 < args.jobs ? args.job[index + 1].first_tile : end;
    return static_cast<const char*>(job.tiles) + static_cast<int64_t>(tile - job.first_tile) * args.split.groups * kTileBytes + column;
  }
  __device__ void next_pair() {
    next += step;
    if (next + 1 < job_end) {
      const uint32_t stride = static_cast<uint32_t>(step * args.split.groups) * kTileBytes;
      at[0] += stride, at[1] += stride;
    } else if (next < end) {
      at[1] = address(min(next + 1, end - 1));
      at[0] = address(next);
    }
  }
  // The pair's tiles of a group into the oldest stage; nothing behind the end.
  __device__ void fill(int group) {
    if (group == 0) next_pair();
    if (group < count && next < end) copy_async(slot, at[0] + group * kTileBytes);
    if (group < count && next + 1 < end) copy_async(slot + kTileBytes, at[1] + group * kTileBytes);
    copy_commit();
    slot += kStageBytes;
    if (slot == base + kBytes) slot = base;
  }
  __device__ void fill_all() {
#pragma unroll
    for (int i = 0; i < kStages; ++i) fill(i % kWarpGroups);
  }
  // Until the oldest stage is there.
  __device__ void wait() const { copy_wait<kStages - 1>(); }
};

template <int kTokens, int kBits, int kStages>
struct PlaneLinear {
  using Counts = TileCounts<kTokens, kBits>;
  using Sums = PairSums<kTokens, kBits>;
  using Stream = TileStream<kStages>;
  static constexpr int kProducts = Counts::kProducts;
  static constexpr int kThreads = kProductWarps * 32;
  static constexpr int kChunkPairs = kPairsOfChunk<kTokens>;
  static constexpr int kPad = kTokens > 1 ? 32 / kTokens : 0;  // floats behind a token's sums of a chunk, against bank conflicts
  static constexpr int kRingBytes = kProductWarps * Stream::kBytes;
  static constexpr int kSumBytes = kProductWarps * kTokens * (kChunkPairs * 2 * kTileRows + kPad) * 4;
  // Of a warp, when it filters: nothing else of the ring and the sums is needed then.
  static constexpr int kFilterBytes = Stream::kBytes > static_cast<int>(sizeof(typename Filter<kTokens>::Sums))
                                          ? Stream::kBytes
                                          : (static_cast<int>(sizeof(typename Filter<kTokens>::Sums)) + 15) / 16 * 16;
  static_assert(kProductWarps * kFilterBytes <= kRingBytes + kSumBytes);

  static int shared_bytes(const Split& split) {
    int groups = 0;
    for (int i = 0; i < split.slices; ++i) groups = split.groups_of(i).count > groups ? split.groups_of(i).count : groups;
    return with_groups(whole(groups));
  }
  static constexpr int with_groups(int groups) {
    return kRingBytes + kSumBytes + groups * (kProducts * 256 + kTokens * 4 + 8) + kProductWarps * static_cast<int>(sizeof(RangeAhead)) +
           kTokens * 4;
  }

  // The groups of whole warps: what is behind the last one counts nothing.
  TQ_HOST_DEVICE static int whole(int groups) { return (groups + kWarpGroups - 1) / kWarpGroups * kWarpGroups; }

  const PlaneArgs& args;
  uint4* ring;
  float* sums;        // [parts][tokens][chunk's rows + kPad]
  RangeAhead* ahead;  // [warps]
  uint32_t* words;    // [groups of the slice][products / 2][32][2][2]
  float* scales;      // [groups of the slice][tokens]
  float* extra;       // [groups of the slice][2]: sums and squares of a token that was rounded here; or [tokens]: sums over all groups
  int warp, lane;
  const Share share;

  __device__ PlaneLinear(const PlaneArgs& args_, uint4* shared)
      : args(args_),
        ring(shared),
        sums(reinterpret_cast<float*>(shared + kRingBytes / 16)),
        ahead(reinterpret_cast<RangeAhead*>(sums + kSumBytes / 4)),
        words(reinterpret_cast<uint32_t*>(ahead + kProductWarps)),
        warp(static_cast<int>(threadIdx.x) / 32),
        lane(static_cast<int>(threadIdx.x) % 32),
        share(args_.split, warp) {
    scales = reinterpret_cast<float*>(words + whole(share.groups.count) * kProducts * 64);
    extra = scales + share.groups.count * kTokens;
  }
  __device__ bool rounds() const { return kTokens == 1 && args.input.input.input; }

  __device__ void run() {
    uint4* own = ring + warp * (Stream::kBytes / 16);
    Stream stream(args, share, own, lane);
    const Filter<kTokens> filter(args, share.first_tile, share.tiles, warp, lane, ahead + warp,
                                 reinterpret_cast<typename Filter<kTokens>::Sums*>(ring + warp * (kFilterBytes / 16)), extra);
    // What depends on weights alone is under way before the activations are waited for.
    stream.fill_all();
    if (!rounds()) launch_dependents();
    filter.look_ahead();
    if (rounds()) {
      round_input();
    } else {
      dependency_wait();
      load_input();
    }
    __syncthreads();
    if (rounds()) launch_dependents(), publish_totals();
    multiply_all(stream);
    filter.run();
  }

  // One token's activations, up to two groups a warp, rounded by every thread block for its slice. The factor of a norm is left to the
  // filter.
  __device__ void round_input() const {
    GroupInput token, second;
    const bool has_second = warp + kProductWarps < share.groups.count;
    if (warp < share.groups.count) token.read_weights(args.input, share.groups.first + warp, lane);
    if (has_second) second.read_weights(args.input, share.groups.first + warp + kProductWarps, lane);
    dependency_wait();
    if (warp < share.groups.count) token.read_input(args.input, 0, share.groups.first + warp, lane);
    if (has_second) second.read_input(args.input, 0, share.groups.first + warp + kProductWarps, lane);
#pragma unroll 1
    for (int group = warp; group < share.groups.count; group += kProductWarps) {
      float squares;
      int sum;
      const Group values = token.rotate(args.input, lane, squares);
      const float scale = values.round({kTokens, kBits}, words + group * kProducts * 64, 0, lane, sum);
      if (args.input.input.prologue == Prologue::kNorm) squares = warp_sum(squares);
      if (lane == 0) scales[group] = scale, extra[2 * group] = scale * static_cast<float>(sum), extra[2 * group + 1] = squares;
      token = second;
    }
  }
  __device__ void load_input() const {
    const int count = share.groups.count * kProducts * 16;
    const auto* from = reinterpret_cast<const uint4*>(args.activations.words) + share.groups.first * kProducts * 16;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) reinterpret_cast<uint4*>(words)[i] = __ldcg(from + i);
    const float* scale_from = args.activations.scales + share.groups.first * kTokens;
    for (int i = static_cast<int>(threadIdx.x); i < share.groups.count * kTokens; i += kThreads) scales[i] = __ldcg(scale_from + i);
    if (warp >= kTokens) return;
    float sum = 0.0f;
    for (int i = lane; i < args.split.groups; i += 32) sum += __ldcg(args.activations.sums + i * kTokens + warp);
    sum = warp_sum(sum);
    if (lane == 0) extra[warp] = sum;
  }
  // This slice's sum of rounded values and of squares, for whoever filters.
  __device__ void publish_totals() const {
    if (warp > 0) return;
    const bool has = lane < share.groups.count;
    const float sum = warp_sum(has ? extra[2 * lane] : 0.0f), squares = warp_sum(has ? extra[2 * lane + 1] : 0.0f);
    if (lane == 0) reinterpret_cast<float2*>(args.totals)[share.slice] = make_float2(sum, squares);
  }

  __device__ void multiply_all(Stream& stream) const {
    const int phases = args.split.phases, chunk = kChunkPairs * phases * 2, stride = chunk * kTileRows + kPad, top = Sums::top(lane);
    const uint32_t columns = shared_address(words + share.first * kProducts * 64 + 4 * lane);
    float scale[kWarpGroups][Sums::kOwn];
#pragma unroll
    for (int g = 0; g < kWarpGroups; ++g)
#pragma unroll
      for (int i = 0; i < Sums::kOwn; ++i)
        scale[g][i] = share.is_active && g < share.count
                          ? scales[(share.first + g) * kTokens + Sums::column_token(lane, i)] * Sums::unit(lane)
                          : 0.0f;
    float* out = sums + share.part * kTokens * stride + share.phase * 2 * kTileRows;
#pragma unroll 1
    for (int first = 0; first < share.tiles; first += chunk) {
      if (share.is_active) {
#pragma unroll 1
        for (int pair = 0; pair < kChunkPairs && first + (pair * phases + share.phase) * 2 < share.tiles; ++pair) {
          Sums pair_sums;
#pragma unroll
          for (int g = 0; g < kWarpGroups; ++g) {
            Counts counts[2];
            stream.wait();
            multiply(stream.slot, columns + g * kProducts * 256, counts);
            pair_sums.add(counts, top, scale[g]);
            stream.fill((g + kStages) % kWarpGroups);
          }
          store(pair_sums, out + pair * phases * 2 * kTileRows, stride);
        }
      }
      __syncthreads();
      add_parts(first, min(chunk, share.tiles - first), stride);
      __syncthreads();
    }
  }

  // Two tiles of a group. from, columns: shared addresses of the tiles and of the activations.
  __device__ void multiply(uint32_t from, uint32_t columns, Counts (&counts)[2]) const {
    const uint4 first = load_shared(from), second = load_shared(from + kTileBytes);
#pragma unroll
    for (int j = 0; j < kProducts; j += 2) {
      const uint4 b = load_shared(columns + j * 256);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        mma_and_count(counts[0].count[j + k], first, k ? make_uint2(b.z, b.w) : make_uint2(b.x, b.y));
        mma_and_count(counts[1].count[j + k], second, k ? make_uint2(b.z, b.w) : make_uint2(b.x, b.y));
      }
    }
  }
  // out: of the pair's first row; another token's lies `stride` behind.
  __device__ void store(const Sums& pair, float* out, int stride) const {
    float value[Sums::kRows][Sums::kOwnTokens];
    pair.finish(lane, value);
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int i = 0; i < Sums::kOwnTokens; ++i)
        out[Sums::token(lane, i) * stride + Sums::tile(lane, r) * kTileRows + Sums::row(lane, r)] = value[r][i];
  }

  // The chunk's sums over the warps, 32 rows of a token a warp.
  __device__ void add_parts(int first, int tiles, int stride) const {
    const int parts = (share.groups.count + kWarpGroups - 1) / kWarpGroups, rows = tiles * kTileRows, token = warp % kTokens;
    const int64_t at = (static_cast<int64_t>(share.slice) * kTokens + token) * args.split.tiles + share.first_tile + first;
    for (int row = warp / kTokens * 32 + lane; row < rows; row += kThreads / kTokens) {
      const float* from = sums + token * stride + row;
      float sum = 0.0f;
#pragma unroll 4
      for (int part = 0; part < parts; ++part) sum += from[part * kTokens * stride];
      args.partial[at * kTileRows + row] = sum;
    }
  }
};

// Two thread blocks a multiprocessor for up to two tokens: the next product's weights come while this one ends.
template <int kTokens, int kBits, int kStages>
__global__ void __launch_bounds__(kProductWarps * 32, kTokens <= 2 ? 2 : 1) plane_linear_kernel(const __grid_constant__ PlaneArgs args) {
  extern __shared__ uint4 shared[];
  PlaneLinear<kTokens, kBits, kStages>(args, shared).run();
}

}  // namespace tq::cuda
