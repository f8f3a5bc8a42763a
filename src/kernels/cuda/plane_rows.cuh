// One token's product of bit planes by thread blocks that own rows of outputs (docs/kernels.md, "Planes").
#pragma once

#include "kernels/cuda/plane_linear.cuh"

namespace tq::cuda {

// As TileStream, over the rows of tiles of an OwnShare.
template <int kStages>
struct OwnStream {
  static constexpr int kStageBytes = 2 * kTileBytes, kBytes = kStages * kStageBytes;
  const OwnShare& share;
  const char* tiles;  // at this lane's columns of the warp's first group
  uint32_t row_bytes, base, slot;
  int next, end, step, count;
  const char* at[2] = {};

  __device__ OwnStream(const PlaneRowsArgs& args, const OwnShare& share_, uint4* ring, int lane) : share(share_) {
    base = slot = shared_address(ring + lane);
    end = share.is_active ? share.tiles : 0, step = 2 * share.phases, next = 2 * share.phase - step, count = share.count;
    row_bytes = static_cast<uint32_t>(args.groups) * kTileBytes;
    tiles = static_cast<const char*>(args.job[share.index].tiles) + (share.groups.first + share.first) * kTileBytes + lane * 16;
  }
  __device__ const char* address(int i) const { return tiles + static_cast<uint64_t>(static_cast<uint32_t>(share.tile(i))) * row_bytes; }
  __device__ void next_pair() {
    next += step;
    at[0] = address(next), at[1] = address(next + 1);
  }
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
  __device__ void wait() const { copy_wait<kStages - 1>(); }
};

// kPairs: of tiles' rows that a warp multiplies between two sums over the warps.
template <int kStages, int kPairs>
struct PlaneRows {
  using Counts = TileCounts<1, 16>;
  using Sums = PairSums<1, 16>;
  using Stream = OwnStream<kStages>;
  static constexpr int kProducts = Counts::kProducts, kThreads = kProductWarps * 32;
  static constexpr int kRingBytes = kProductWarps * Stream::kBytes;
  static constexpr int kSumBytes = kProductWarps * kPairs * 2 * kTileRows * 4;
  static constexpr int kTapBytes = kRates * kMaxTaps * 4;

  // A row of outputs: what depends on weights alone, and what it is added to.
  struct RowAhead {
    uint32_t packed;  // scale (f16), rate, newest plane row of the window counted in the thread block's
    float bias, before;
    static constexpr int kRateShift = 16, kNewestShift = 20;
  };
  static constexpr int kMostPlanes = 1 << (32 - RowAhead::kNewestShift);

  TQ_HOST_DEVICE static int sum_stride(const Owners& owners) { return owners.most_planes + owners.most_planes / 32 + 1; }
  TQ_HOST_DEVICE static int most_groups(int groups, int slices) { return (groups + slices - 1) / slices; }
  static int shared_bytes(const PlaneRowsArgs& args) {
    const int groups = most_groups(args.groups, args.owners.slices);
    return kRingBytes + kSumBytes + kTapBytes + kMaxSlices * 8 + whole(groups) * kProducts * 256 + groups * 12 +
           args.owners.most_rows * static_cast<int>(sizeof(RowAhead)) + args.owners.slices * sum_stride(args.owners) * 4;
  }
  TQ_HOST_DEVICE static int whole(int groups) { return (groups + kWarpGroups - 1) / kWarpGroups * kWarpGroups; }

  const PlaneRowsArgs& args;
  int warp, lane;
  const OwnShare share;
  uint4* ring;
  uint32_t* words;  // [groups of the slice][products / 2][32][2][2]
  float* sums;      // [parts][rows of tiles of a chunk]
  float* taps;      // [kRates][kMaxTaps]
  float* totals;    // [slices][2]: sums of rounded values and of squares
  float* scales;    // [groups of the slice]
  float* extra;     // [groups of the slice][2]
  RowAhead* ahead;  // [rows]
  float* window;    // [slices][sum_stride]: sums of the own plane rows

  __device__ PlaneRows(const PlaneRowsArgs& args_, uint4* shared)
      : args(args_),
        warp(static_cast<int>(threadIdx.x) / 32),
        lane(static_cast<int>(threadIdx.x) % 32),
        share(args_, static_cast<int>(blockIdx.x), warp),
        ring(shared) {
    const int groups = most_groups(args.groups, args.owners.slices);
    words = reinterpret_cast<uint32_t*>(shared + kRingBytes / 16);
    sums = reinterpret_cast<float*>(words + whole(groups) * kProducts * 64);
    taps = sums + kSumBytes / 4;
    totals = taps + kTapBytes / 4;
    scales = totals + kMaxSlices * 2;
    extra = scales + groups;
    ahead = reinterpret_cast<RowAhead*>(extra + 2 * groups);
    window = reinterpret_cast<float*>(ahead + args.owners.most_rows);
  }

  __device__ void run() {
    if (share.slices > 1) cluster_arrive();
    Stream stream(args, share, ring + warp * (Stream::kBytes / 16), lane);
    // What depends on weights alone is under way before the activations are waited for.
    stream.fill_all();
    if (!args.launches_late) launch_dependents();
    look_ahead();
    round_input();
    __syncthreads();
    if (args.launches_late) launch_dependents();
    if (share.slices > 1) cluster_wait();  // all of the cluster have started
    if (warp == kProductWarps - 1) publish_totals();
    multiply_all(stream);
    if (share.slices > 1) cluster_arrive(), cluster_wait();
    else __syncthreads();
    filter();
  }

  __device__ void look_ahead() const {
    const PlaneJob& job = args.job[share.index];
    for (int i = static_cast<int>(threadIdx.x); i < kRates * kMaxTaps; i += kThreads) taps[i] = job.taps[i];
    for (int i = static_cast<int>(threadIdx.x); i < share.rows; i += kThreads) {
      const int row = share.first_row + i, range = row / kRangeRows;
      const uint32_t rate = job.rate[range], scale = job.row_scale[row];
      const int newest = job.newest[range] + row % kRangeRows * static_cast<int>(rate) - share.begin;
      ahead[i].packed = scale | rate << RowAhead::kRateShift | static_cast<uint32_t>(newest) << RowAhead::kNewestShift;
      ahead[i].bias = job.bias ? job.bias[row] : 0.0f;
    }
  }

  // The slice's activations, up to two groups a warp. The factor of a norm is left to the filter.
  __device__ void round_input() const {
    GroupInput token, second;
    const bool has_second = warp + kProductWarps < share.groups.count;
    if (warp < share.groups.count) token.read_weights(args.input, share.groups.first + warp, lane);
    if (has_second) second.read_weights(args.input, share.groups.first + warp + kProductWarps, lane);
    dependency_wait();
    if (warp < share.groups.count) token.read_input(args.input, 0, share.groups.first + warp, lane);
    if (has_second) second.read_input(args.input, 0, share.groups.first + warp + kProductWarps, lane);
    const float* output = args.job[share.index].output + share.first_row;
    if (args.adds)
      for (int i = static_cast<int>(threadIdx.x); i < share.rows; i += kThreads) ahead[i].before = __ldcg(output + i);
#pragma unroll 1
    for (int group = warp; group < share.groups.count; group += kProductWarps) {
      float squares;
      int sum;
      const Group values = token.rotate(args.input, lane, squares);
      const float scale = values.round({1, 16}, words + group * kProducts * 64, 0, lane, sum);
      if (args.input.input.prologue == Prologue::kNorm) squares = warp_sum(squares);
      if (lane == 0) scales[group] = scale, extra[2 * group] = scale * static_cast<float>(sum), extra[2 * group + 1] = squares;
      token = second;
    }
  }
  // The slice's sum of rounded values and of squares, to all of the cluster.
  __device__ void publish_totals() const {
    const bool has = lane < share.groups.count;
    const float sum = warp_sum(has ? extra[2 * lane] : 0.0f), squares = warp_sum(has ? extra[2 * lane + 1] : 0.0f);
    if (share.slices == 1) {
      if (lane == 0) totals[0] = sum, totals[1] = squares;
    } else if (lane < share.slices) {
      const uint32_t to = shared_address(totals + 2 * share.rank);
      store_cluster(to, lane, sum), store_cluster(to + 4, lane, squares);
    }
  }

  __device__ void multiply_all(Stream& stream) const {
    const int phases = share.phases, chunk = kPairs * phases * 2, stride = chunk * kTileRows, top = Sums::top(lane);
    const uint32_t columns = shared_address(words + share.first * kProducts * 64 + 4 * lane);
    float scale[kWarpGroups][Sums::kOwn];
#pragma unroll
    for (int g = 0; g < kWarpGroups; ++g)
      scale[g][0] = share.is_active && g < share.count ? scales[share.first + g] * Sums::unit(lane) : 0.0f;
    float* out = sums + share.part * stride + share.phase * 2 * kTileRows;
#pragma unroll 1
    for (int first = 0; first < share.tiles; first += chunk) {
      if (first > 0) __syncthreads();  // the sums before have been read
      if (share.is_active) {
#pragma unroll 1
        for (int pair = 0; pair < kPairs && first + (pair * phases + share.phase) * 2 < share.tiles; ++pair) {
          Sums pair_sums;
#pragma unroll
          for (int g = 0; g < kWarpGroups; ++g) {
            Counts counts[2];
            stream.wait();
            multiply(stream.slot, columns + g * kProducts * 256, counts);
            pair_sums.add(counts, top, scale[g]);
            stream.fill((g + kStages) % kWarpGroups);
          }
          float value[Sums::kRows][Sums::kOwnTokens];
          pair_sums.finish(lane, value);
          out[pair * phases * 2 * kTileRows + Sums::tile(lane, 0) * kTileRows + Sums::row(lane, 0)] = value[0][0];
        }
      }
      __syncthreads();
      add_parts(first, min(chunk, share.tiles - first) * kTileRows, stride);
    }
  }
  __device__ void multiply(uint32_t from, uint32_t columns, Counts (&counts)[2]) const {
    const uint4 first = load_shared(from), second = load_shared(from + kTileBytes);
    const uint4 b = load_shared(columns);
    mma_and_count(counts[0].count[0], first, make_uint2(b.x, b.y));
    mma_and_count(counts[1].count[0], second, make_uint2(b.x, b.y));
    mma_and_count(counts[0].count[1], first, make_uint2(b.z, b.w));
    mma_and_count(counts[1].count[1], second, make_uint2(b.z, b.w));
  }

  // The chunk's sums over the warps, to whoever owns rows that take from them.
  __device__ void add_parts(int first, int rows, int stride) const {
    const Owners& owners = args.owners;
    const int parts = (share.groups.count + kWarpGroups - 1) / kWarpGroups;
    for (int row = static_cast<int>(threadIdx.x); row < rows; row += kThreads) {
      const float* from = sums + row;
      float sum = 0.0f;
#pragma unroll 4
      for (int part = 0; part < parts; ++part) sum += from[part * stride];
      int plane;
      if (!share.plane_of(first * kTileRows + row, args.job[share.index].plane_rows, plane)) continue;
      if (share.slices == 1) {
        const int i = plane - share.begin;
        if (i >= 0 && i < share.planes) window[filter_slot(i)] = sum;
        continue;
      }
      for (int owner = 0; owner < share.slices; ++owner) {
        const int entry = share.entry - share.rank + owner, begin = owners.begin[entry], i = plane - begin;
        if (i >= 0 && i < owners.plane[entry + 1] - begin)
          store_cluster(shared_address(window + share.rank * sum_stride(owners) + filter_slot(i)), owner, sum);
      }
    }
  }

  // A thread a row of outputs.
  __device__ void filter() const {
    const PlaneJob& job = args.job[share.index];
    const int stride = sum_stride(args.owners);
    float total = 0.0f, squares = 0.0f, factor = 1.0f;
    for (int s = 0; s < share.slices; ++s) total += totals[2 * s], squares += totals[2 * s + 1];
    if (args.input.input.prologue == Prologue::kNorm)
      factor = 1.0f / sqrtf(squares / static_cast<float>(args.input.columns) + args.input.input.epsilon);
    for (int i = static_cast<int>(threadIdx.x); i < share.rows; i += kThreads) {
      const RowAhead row = ahead[i];
      const int rate = row.packed >> RowAhead::kRateShift & 15, newest = static_cast<int>(row.packed >> RowAhead::kNewestShift);
      const int count = job.windows[rate];
      const float scale = factor * __half2float(__ushort_as_half(static_cast<uint16_t>(row.packed)));
      const float* tap = taps + rate * kMaxTaps;
      float y = 0.0f, tap_sum = 0.0f;
#pragma unroll 4
      for (int j = 0; j < count; ++j) {
        const float* from = window + filter_slot(newest - j);
        float sum = from[0];
        for (int s = 1; s < share.slices; ++s) sum += from[s * stride];
        tap_sum += tap[j];
        y = fmaf(tap[j], sum, y);
      }
      const float value = scale * (2.0f * y - total * tap_sum) + row.bias;
      job.output[share.first_row + i] = args.adds ? row.before + value : value;
    }
  }
};

// Two thread blocks a multiprocessor: the next product's weights come while this one ends.
template <int kStages, int kPairs>
__global__ void __launch_bounds__(kProductWarps * 32, 2) plane_rows_kernel(const __grid_constant__ PlaneRowsArgs args) {
  extern __shared__ uint4 shared[];
  PlaneRows<kStages, kPairs>(args, shared).run();
}

}  // namespace tq::cuda
