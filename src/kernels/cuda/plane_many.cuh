// The product of bit planes with many tokens on the integer tensor cores, and its outputs (docs/kernels.md, "Planes with many tokens").
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/byte_product.cuh"
#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

constexpr int kManyThreads = kManyWorkers * kManyTiles * 32;
// Of a warp's ring, as shared memory has room for.
constexpr int many_stages(int tokens, int bits) {
  if (bits == 16) return tokens == 8 ? 7 : tokens == 16 ? 6 : 3;
  return tokens == 16 ? 6 : tokens == 32 ? 3 : 4;
}

// What a worker multiplies at a time: four tiles in turn along the plane rows of a matrix.
struct ManyRound {
  int tile;  // the first one, counted in the matrix; negative: the ring's last
  int row;   // the first of those whose newest plane row is among these tiles and no halo
  uint8_t job, rows, tiles;
};

// Plane rows [begin, end) of a matrix that fall to a worker: the rows of outputs whose newest bits they are, and in front of them a halo of
// tiles, whose plane rows their windows reach.
struct ManyRun {
  const PlaneJob& job;
  int begin, end;
  int halo = 0;  // tiles

  __device__ ManyRun(const PlaneJob& job_, int begin_, int end_) : job(job_), begin(begin_), end(end_) {
    const int row = row_at(begin), range = row / kRangeRows;
    const int from = min(window_begin(range, row % kRangeRows), window_begin(range + 1, 0));  // those behind begin later
    if (from < 0) halo = begin + (past_end(job) - from + kTileRows - 1) / kTileRows;
    else if (from < begin * kTileRows) halo = (begin * kTileRows - from + kTileRows - 1) / kTileRows;
  }
  // Plane rows of the last tile that there are none of.
  static __device__ int past_end(const PlaneJob& job) { return job.tile_count() * kTileRows - job.plane_rows; }
  __device__ int window_begin(int range, int row) const {
    if (range >= job.range_count()) return begin * kTileRows;
    const int rate = __ldg(job.rate + range);
    return __ldg(job.newest + range) + row * rate + 1 - job.windows[rate];
  }
  // Rows whose newest plane row lies before a tile.
  __device__ int row_at(int tile) const {
    if (tile >= job.tile_count()) return job.rows;
    const int range = __ldg(job.reach + 2 * tile), rate = __ldg(job.rate + range);
    const int planes = tile * kTileRows - __ldg(job.newest + range);
    return min(range * kRangeRows + (planes > 0 ? (planes + rate - 1) / rate : 0), job.rows);
  }
  __device__ int rounds() const { return (halo + end - begin + kManyTiles - 1) / kManyTiles; }
  __device__ ManyRound round(int index, int i) const {
    const int tile = begin - halo + i * kManyTiles;
    const int row = row_at(max(tile, begin));
    const int behind = row_at(max(min(tile + kManyTiles, end), begin));
    return {tile, row, static_cast<uint8_t>(index), static_cast<uint8_t>(max(0, behind - row)),
            static_cast<uint8_t>(min(kManyTiles, end - tile))};
  }
};

// What a thread's row of a round needs to be filtered.
struct ManyRow {
  int newest, rate;  // newest: its slot of sums
  float scale, bias;
};

// A token's sum of rounded values, of all groups; a warp's.
__device__ __forceinline__ float many_total(const ManyArgs& args, int token, int lane) {
  float sum = 0.0f;
  for (int i = lane; i < args.split.groups; i += 32) sum += __ldcg(args.activations.sums + i * args.form.tokens + token);
  return warp_sum(sum);
}

// kStages: of a warp's ring, a tile of a group each.
template <int kTokens, int kBits, int kStages>
struct PlaneMany {
  static constexpr int kWorkerThreads = kManyTiles * 32;
  static constexpr int kBytes = kBits / 8;
  static constexpr int kValues = kTokens / 2;                          // sums of a lane
  static constexpr int kCounts = kValues * kBytes;                     // the same of every byte
  static constexpr int kBatch = kTokens * kBytes >= 64 ? 4 : 8;        // steps whose operands are held in registers
  static constexpr int kPiece = kTokens == 64 ? 16 : kTokens;          // tokens that are filtered at a time
  static constexpr int kCarry = 24, kPlanes = kManyTiles * kTileRows;  // plane rows of the round before, and of a round
  static constexpr int kStride = 92;                                   // floats of a token's plane rows
  static constexpr int kGroupBytes = kTokens * kBytes * kGroupColumns, kStepBytes = kGroupBytes / 8;
  static constexpr int kRingBytes = kManyThreads * 16 * kStages;
  static constexpr int kSumBytes = kManyWorkers * kPiece * kStride * 4, kCarryBytes = kManyWorkers * kTokens * kCarry * 4;
  static constexpr int kTapBytes = kMaxJobs * kRates * kMaxTaps * 4;
  static_assert(kMaxTaps <= kCarry);

  static int shared_bytes(const ManySplit& split) {
    return kRingBytes + split.most_groups() * (kGroupBytes + kTokens * 4) + kSumBytes + kCarryBytes + kTokens * 4 + kTapBytes +
           kManyThreads * static_cast<int>(sizeof(ManyRow)) + kManyWorkers * split.rounds * static_cast<int>(sizeof(ManyRound));
  }
  // What all lanes have, known to the compiler to be so: products of a warpgroup may not stand in what looks like a divergent path.
  static __device__ int uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }
  // Slot of a plane row, counted from the first of the carry: rows that lie K plane rows apart fall into different banks.
  static __device__ int slot(int plane) { return plane + plane / 32; }

  const ManyArgs& args;
  const int warp, lane, worker, part;  // worker: of the thread block; part: warp of the worker
  const int slice;
  const Range groups;
  const uint32_t operand;  // of the first step of the first group
  uint4* words;            // [groups of the slice][8 steps][2][bytes][tokens]
  uint4* ring;             // [warps][stages][lanes]
  ManyRow* row;            // the thread's
  float* taps;             // [jobs][kRates][kMaxTaps]
  float* scales;           // [groups of the slice][tokens]
  float* totals;           // [tokens]
  float* sums;             // of the worker: [tokens of a piece][kStride]
  float* carry;            // of the worker: [tokens][kCarry]
  ManyRound* round;        // of the worker
  int rounds = 0;

  __device__ PlaneMany(const ManyArgs& args_, uint4* shared)
      : args(args_),
        warp(uniform(static_cast<int>(threadIdx.x) / 32)),
        lane(static_cast<int>(threadIdx.x) % 32),
        worker(warp / kManyTiles),
        part(warp % kManyTiles),
        slice(static_cast<int>(blockIdx.x) / (args_.split.workers / kManyWorkers)),
        groups(args_.split.groups_of(slice)),
        operand(product_operand<kTokens * kBytes>(shared)),
        words(shared) {
    const int most = args.split.most_groups();
    ring = words + most * (kGroupBytes / 16);
    row = reinterpret_cast<ManyRow*>(ring + kRingBytes / 16) + threadIdx.x;
    taps = reinterpret_cast<float*>(row + kManyThreads - threadIdx.x);
    scales = taps + kTapBytes / 4;
    totals = scales + most * kTokens;
    sums = totals + kTokens;
    carry = sums + kSumBytes / 4;
    round = reinterpret_cast<ManyRound*>(carry + kCarryBytes / 4) + worker * args.split.rounds;
    sums += worker * kPiece * kStride, carry += worker * kTokens * kCarry;
  }

  // A warp's tiles on their way into its ring by asynchronous copies: every lane copies what it alone will read. Of a round's tile the
  // groups come in turn, then the next round.
  struct Stream {
    const PlaneMany& own;
    const uint32_t base;
    uint32_t slot;
    int round = -1, left = 0;  // groups of the tile
    bool has_tile = false;
    const char* at = nullptr;

    __device__ explicit Stream(const PlaneMany& own_)
        : own(own_), base(shared_address(own_.ring + own_.warp * kStages * 32 + own_.lane)), slot(base) {}
    __device__ void next_tile() {
      left = own.groups.count, has_tile = false;
      if (++round >= own.rounds) return;
      const ManyRound& now = own.round[round];
      int tile = now.tile + own.part;
      if (own.part >= now.tiles) return;
      const PlaneJob& job = own.args.job[now.job];
      if (tile < 0) tile += job.tile_count();
      at = static_cast<const char*>(job.tiles) + (static_cast<int64_t>(tile) * own.args.split.groups + own.groups.first) * kTileBytes +
           own.lane * 16;
      has_tile = true;
    }
    __device__ void fill() {
      if (left == 0) next_tile();
      --left;
      if (has_tile) copy_async(slot, at);
      copy_commit();
      at += kTileBytes, slot += kTileBytes;
      if (slot == base + kStages * kTileBytes) slot = base;
    }
  };

  __device__ void run() {
    plan_rounds();
    barrier(1 + worker, kWorkerThreads);
    Stream stream(*this);
#pragma unroll 1
    for (int i = 0; i < kStages; ++i) stream.fill();
    launch_dependents();
    *row = read_row(0);
    dependency_wait();
    load_input();
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < rounds; ++i) {
      float value[kValues] = {};
#pragma unroll 1
      for (int group = 0; group < groups.count; ++group) multiply(stream, group, value);
      finish(i, value);
    }
  }

  // Depends on weights alone.
  __device__ void plan_rounds() {
    const ManySplit& split = args.split;
    const int number = static_cast<int>(blockIdx.x) % (split.workers / kManyWorkers) * kManyWorkers + worker;
    const int first = split.first_tile(number), last = split.first_tile(number + 1),
              thread = static_cast<int>(threadIdx.x) % kWorkerThreads;
    for (int index = 0; index < args.jobs; ++index) {
      const PlaneJob& job = args.job[index];
      const int begin = max(first - job.first_tile, 0), end = min(last - job.first_tile, job.tile_count());
      if (begin >= end) continue;
      const ManyRun run(job, begin, end);
      for (int i = thread; i < run.rounds(); i += kWorkerThreads) round[rounds + i] = run.round(index, i);
      rounds += run.rounds();
    }
    rounds = uniform(rounds);
    for (int i = static_cast<int>(threadIdx.x); i < args.jobs * kRates * kMaxTaps; i += kManyThreads)
      taps[i] = __ldg(args.job[i / (kRates * kMaxTaps)].taps + i % (kRates * kMaxTaps));
  }

  __device__ void load_input() const {
    const int count = groups.count * (kGroupBytes / 16), thread = static_cast<int>(threadIdx.x);
    const auto* from = reinterpret_cast<const uint4*>(args.activations.words) + groups.first * (kGroupBytes / 16);
#pragma unroll 4
    for (int i = thread; i < count; i += kManyThreads) copy_async(shared_address(words + i), from + i);
    copy_commit();
    const float* scale_from = args.activations.scales + groups.first * kTokens;
    for (int i = thread; i < groups.count * kTokens; i += kManyThreads) scales[i] = __ldcg(scale_from + i);
    if (args.split.slices == 1)
      for (int token = warp; token < kTokens; token += kManyThreads / 32) {
        const float total = many_total(args, token, lane);
        if (lane == 0) totals[token] = total;
      }
    copy_wait<0>();
    product_visible();
  }

  // A tile of one group.
  __device__ void multiply(Stream& stream, int group, float (&value)[kValues]) const {
    copy_wait<kStages - 1>();
    const uint4 tile = load_shared(stream.slot);
    const uint32_t from = operand + static_cast<uint32_t>(group * (kGroupBytes / 16));
    int count[kCounts];  // of the lower bytes, then of the upper ones
#pragma unroll
    for (int first = 0; first < 8; first += kBatch) {
      uint32_t a[kBatch][4];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) bits_as_bytes<kBytes == 2>(tile, first + i, a[i]);
      if (first == 0) stream.fill();
#pragma unroll
      for (int i = 0; i < kBatch; ++i) product_ready(a[i]);
      product_begin();
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i == 0) product_step<false>(count, a[i], from);
        else product_step<true>(count, a[i], from + (first + i) * (kStepBytes / 16));
      }
      product_end();
    }
    const auto* scale = reinterpret_cast<const float2*>(scales + group * kTokens) + lane % 4;
#pragma unroll
    for (int i = 0; i < kValues / 4; ++i) {
      const float2 of = scale[4 * i];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        int sum = count[4 * i + k];
        if constexpr (kBytes == 2) sum += count[kValues + 4 * i + k] * 256;
        value[4 * i + k] = fmaf(k % 2 ? of.y : of.x, static_cast<float>(sum), value[4 * i + k]);
      }
    }
  }

  __device__ void finish(int number, const float (&value)[kValues]) const {
    const ManyRound& now = round[number];
    const PlaneJob& job = args.job[now.job];
    const int thread = static_cast<int>(threadIdx.x) % kWorkerThreads;
    const ManyRow next = read_row(number + 1);  // on its way while these are filtered
#pragma unroll
    for (int piece = 0; piece < kTokens / kPiece; ++piece) {
      float* before = carry + piece * kPiece * kCarry;
      keep<false>(before, thread);
      store(now, job, value, piece);
      barrier(1 + worker, kWorkerThreads);
      filter(now, job, piece, thread);
      keep<true>(before, thread);
      barrier(1 + worker, kWorkerThreads);
    }
    *row = next;
  }

  // The last plane rows of a piece's sums to where they are kept, or those kept before the new ones.
  template <bool kOut>
  __device__ void keep(float* kept, int thread) const {
    static_assert(kCarry <= 32 && kPlanes % 32 == 0);
    constexpr int kPairs = kCarry / 2, kFrom = kPlanes + kPlanes / 32;
    for (int i = thread; i < kPiece * kPairs; i += kWorkerThreads) {
      auto* outer = reinterpret_cast<float2*>(kept) + i;
      auto* inner = reinterpret_cast<float2*>(sums + i / kPairs * kStride + (kOut ? kFrom : 0)) + i % kPairs;
      if constexpr (kOut) *outer = *inner;
      else *inner = *outer;
    }
  }

  // Threads side by side along a round's rows; the others have the same rows and other tokens.
  static __device__ int side_of(int rows) { return rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : 64; }
  // The thread's row of a round.
  __device__ ManyRow read_row(int number) const {
    if (number >= rounds) return {};
    const ManyRound& now = round[number];
    const int own = static_cast<int>(threadIdx.x) % side_of(now.rows), at = now.row + own;
    if (own >= now.rows) return {};
    const PlaneJob& job = args.job[now.job];
    const int rate = __ldg(job.rate + at / kRangeRows);
    ManyRow row{__ldg(job.newest + at / kRangeRows) + at % kRangeRows * rate - now.tile * kTileRows + kCarry, rate, 0.0f, 0.0f};
    if (args.split.slices > 1) return row;
    row.scale = __half2float(__ushort_as_half(__ldg(job.row_scale + at)));
    if (job.bias) row.bias = __ldg(job.bias + at);
    return row;
  }

  // The warp's own plane rows.
  __device__ void store(const ManyRound& now, const PlaneJob& job, const float (&value)[kValues], int piece) const {
    const int tile = now.tile + part, shift = tile < 0 ? ManyRun::past_end(job) : 0;
    if (part >= now.tiles) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int plane = part * kTileRows + lane / 4 + 8 * r + shift;  // counted from the round's first
      if (tile < 0 && now.tile * kTileRows + plane >= 0) continue;    // behind the ring's end
      float* to = sums + lane % 4 * 2 * kStride + slot(kCarry + plane);
#pragma unroll
      for (int i = 0; i < kPiece / 8; ++i)
#pragma unroll
        for (int c = 0; c < 2; ++c) to[(8 * i + c) * kStride] = value[(piece * (kPiece / 8) + i) * 4 + 2 * r + c];
    }
  }

  // A thread one row of some tokens.
  __device__ void filter(const ManyRound& now, const PlaneJob& job, int piece, int thread) const {
    constexpr int kTogether = kPiece >= 32 ? 4 : 2;
    const int side = side_of(now.rows), step = kWorkerThreads / side;
    if (thread % side >= now.rows) return;
    const ManyRow own = *row;
    const int row = now.row + thread % side, window = job.windows[own.rate], tokens = min(kPiece, args.tokens - piece * kPiece);
    const float* own_taps = taps + (now.job * kRates + own.rate) * kMaxTaps;
    for (int first = thread / side; first < tokens; first += kTogether * step) {
      float y[kTogether] = {}, before[kTogether] = {}, tap_sum = 0.0f;
      const int64_t token = piece * kPiece + first;
      if (args.split.slices == 1 && args.adds)
#pragma unroll
        for (int k = 0; k < kTogether; ++k)
          if (first + k * step < tokens) before[k] = __ldcg(job.output + (token + k * step) * job.rows + row);
#pragma unroll 4
      for (int j = 0; j < window; ++j) {
        const float tap = own_taps[j];
        const float* from = sums + first * kStride + slot(own.newest - j);
        tap_sum += tap;
#pragma unroll
        for (int k = 0; k < kTogether; ++k)
          if (first + k * step < tokens) y[k] = fmaf(tap, from[k * step * kStride], y[k]);
      }
      if (args.split.slices > 1) {
        float* to = args.partial + (static_cast<int64_t>(slice) * kTokens + token) * args.split.rows() + job.first_range * kRangeRows + row;
#pragma unroll
        for (int k = 0; k < kTogether; ++k)
          if (first + k * step < tokens) to[static_cast<int64_t>(k * step) * args.split.rows()] = y[k];
        continue;
      }
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
        if (first + k * step < tokens)
          job.output[(token + k * step) * job.rows + row] =
              before[k] + (own.scale * (2.0f * y[k] - totals[token + k * step] * tap_sum) + own.bias);
    }
  }
};

template <int kTokens, int kBits, int kStages>
__global__ void __launch_bounds__(kManyThreads, 1) plane_many_kernel(const __grid_constant__ ManyArgs args) {
  extern __shared__ uint4 shared[];
  PlaneMany<kTokens, kBits, kStages>(args, shared).run();
}

constexpr int kJoinWarps = 8;

// Outputs of several slices' filtered sums; a warp a range of rows of a token: grid (ranges / kWarps, tokens).
template <int kWarps>
__global__ void __launch_bounds__(kWarps * 32) join_slices_kernel(const __grid_constant__ ManyArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % 32, token = static_cast<int>(blockIdx.y);
  const int number = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  launch_dependents();
  int index = 0;
  while (index + 1 < args.jobs && number >= args.job[index + 1].first_range) ++index;
  const PlaneJob& job = args.job[index];
  const int range = number - job.first_range, row = range * kRangeRows + lane;
  const bool has_row = number < args.split.ranges && row < job.rows;
  float tap_sum = 0.0f, scale = 0.0f, bias = 0.0f;
  if (has_row) {
    const int rate = job.rate[range];
    for (int j = 0; j < job.windows[rate]; ++j) tap_sum += job.taps[rate * kMaxTaps + j];
    scale = __half2float(__ushort_as_half(job.row_scale[row])), bias = job.bias ? job.bias[row] : 0.0f;
  }
  dependency_wait();
  const float total = many_total(args, token, lane);
  if (!has_row) return;
  float* output = job.output + static_cast<int64_t>(token) * job.rows + row;
  const float before = args.adds ? __ldcg(output) : 0.0f;
  const int64_t stride = static_cast<int64_t>(args.form.tokens) * args.split.rows();
  const float* from = args.partial + static_cast<int64_t>(token) * args.split.rows() + number * kRangeRows + lane;
  float sum = 0.0f;
#pragma unroll 8
  for (int slice = 0; slice < args.split.slices; ++slice) sum += __ldcg(from + slice * stride);
  *output = before + (scale * (2.0f * sum - total * tap_sum) + bias);
}

}  // namespace tq::cuda
