// The product of bit planes with many tokens on the integer tensor cores, and its outputs (docs/kernels.md, "Planes with many tokens").
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/byte_product.cuh"
#include "kernels/cuda/half_terms.cuh"
#include "kernels/cuda/many_rounds.cuh"
#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

constexpr int kManyThreads = kManyWorkers * kManyTiles * 32;
// Of a warp's ring, as shared memory has room for.
constexpr int many_stages(int tokens, int bits) {
  if (bits == 16) return tokens == 8 ? 7 : tokens == 16 ? 6 : 5;
  return tokens == 16 ? 6 : 5;
}

__device__ __forceinline__ float inverse_power(float power) { return __uint_as_float((254u << 23) - __float_as_uint(power)); }

constexpr int kTotalParts = 32;  // that a token's sum of rounded values is added from, at every number of tokens

// kStages: of a warp's ring, a tile of a group each.
template <int kTokens, int kBits, int kStages>
struct PlaneMany {
  static constexpr int kWorkerThreads = kManyTiles * 32;
  static constexpr int kBytes = kBits / 8;
  static constexpr int kValues = kTokens / 2;                     // sums of a lane
  static constexpr int kCounts = kValues * kBytes;                // the same of every byte
  static constexpr int kBatch = kTokens * kBytes >= 64 ? 4 : 8;   // steps whose operands are held in registers
  static constexpr int kStride = kTokens == 8 ? 8 : kTokens + 8;  // floats of a row of carried sums: four rows are in different banks
  static constexpr int kGroupBytes = kTokens * kBytes * kGroupColumns, kStepBytes = kGroupBytes / 8;
  static constexpr int kRingBytes = kManyThreads * 16 * kStages;
  static constexpr int kSlotFloats = kCarriedRows * kStride;
  static constexpr int kSlots = kManyTiles - 1 + 2;  // of a worker: of three tiles, and of the last of a round and of the round before
  static constexpr int kCarryBytes = kManyWorkers * kSlots * kSlotFloats * 4;
  static constexpr int kTapBytes = kMaxJobs * kRates * (kMaxTaps + 1) * 4;
  static constexpr int kRowBytes = kManyThreads / 32 * kReachRows * static_cast<int>(sizeof(ManyRow));

  static int shared_bytes(const ManySplit& split) {
    return kRingBytes + split.most_groups() * (kGroupBytes + kTokens * 4 + 8) + kCarryBytes + 2 * kTokens * 4 + kTapBytes + kRowBytes +
           kManyWorkers * split.rounds * static_cast<int>(sizeof(ManyRound));
  }
  const ManyArgs& args;
  const int warp, lane, worker, part;  // worker: of the thread block; part: warp of the worker
  const int slice;
  const Range groups;
  uint32_t operand;    // of the first step of the first group
  uint4* words;        // [groups of the slice][8 steps][2][bytes][tokens]
  uint4* ring;         // [warps][stages][lanes]
  ManyRow* row;        // of the warp: [kReachRows] those of its next tile
  uint64_t* arrivals;  // [groups of the slice] of activations
  float* taps;         // [jobs][kRates][kMaxTaps]
  float* tap_sums;     // [jobs][kRates]
  float* scales;       // [groups of the slice][tokens]
  float* totals;       // [tokens]
  float* powers;       // [tokens] of two, by which sums of plane rows are halves
  float* carry;        // of the worker: [kSlots][kCarriedRows][kStride]
  ManyRound* round;    // of the worker
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
    asm volatile("" : "+r"(operand));  // kept, not computed for every group anew
    const int most = args.split.most_groups();
    ring = words + most * (kGroupBytes / 16);
    row = reinterpret_cast<ManyRow*>(ring + kRingBytes / 16) + warp * kReachRows;
    arrivals = reinterpret_cast<uint64_t*>(ring + (kRingBytes + kRowBytes) / 16);
    carry = reinterpret_cast<float*>(arrivals + most);
    powers = carry + kCarryBytes / 4;
    totals = powers + kTokens;
    scales = totals + kTokens;
    taps = scales + most * kTokens;
    tap_sums = taps + kMaxJobs * kRates * kMaxTaps;
    round = reinterpret_cast<ManyRound*>(tap_sums + kMaxJobs * kRates) + worker * args.split.rounds;
    carry += worker * kSlots * kSlotFloats;
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
    // The last warp does so before all else: where the kernel before has ended, nothing is left to be done meanwhile, and elsewhere its
    // worker's ring fills while activations come.
    if (kHasBulkCopies && warp == kManyThreads / 32 - 1) load_words();
    plan_rounds<false>();
    barrier(1 + worker, kWorkerThreads);
    Stream stream(*this);
#pragma unroll 1
    for (int i = 0; i < kStages; ++i) stream.fill();
    launch_dependents();
    plan_rounds<true>();
    load_taps();
    barrier(1 + worker, kWorkerThreads);
    write_row(read_row(0));
    __syncthreads();
    dependency_wait();
    load_input();
    __syncthreads();
    find_powers();
    join_totals();
    __syncthreads();  // before the parts of the totals are overwritten
#pragma unroll 1
    for (int i = 0; i < rounds; ++i) {
      float value[kValues] = {};
#pragma unroll 1
      for (int group = 0; group < groups.count; ++group) {
        if (kHasBulkCopies && i == 0) arrival_wait(arrivals + group);
        multiply(stream, group, value);
      }
      finish(i, value);
    }
  }

  // Of every round: its tiles, from the arguments alone; then its rows, from the tables of weights.
  template <bool kRows>
  __device__ void plan_rounds() {
    const ManySplit& split = args.split;
    const int number = static_cast<int>(blockIdx.x) % (split.workers / kManyWorkers) * kManyWorkers + worker;
    const int first = split.first_tile(number), last = split.first_tile(number + 1),
              thread = static_cast<int>(threadIdx.x) % kWorkerThreads;
    int count = 0;
    for (int index = 0; index < args.jobs; ++index) {
      const ManyRun run(args.job[index], first, last);
      for (int i = thread; i < run.rounds(); i += kWorkerThreads) {
        if constexpr (kRows) run.find_rows(round[count + i]);
        else run.find_tiles(index, i, round[count + i]);
      }
      count += run.rounds();
    }
    rounds = uniform(count);
  }

  __device__ void load_taps() const {
    for (int i = static_cast<int>(threadIdx.x); i < args.jobs * kRates * kMaxTaps; i += kManyThreads)
      taps[i] = __ldg(args.job[i / (kRates * kMaxTaps)].taps + i % (kRates * kMaxTaps));
    for (int i = static_cast<int>(threadIdx.x); i < args.jobs * kRates; i += kManyThreads) {
      const float* from = args.job[i / kRates].taps + i % kRates * kMaxTaps;
      float sum = 0.0f;
#pragma unroll 8
      for (int j = 0; j < kMaxTaps; ++j) sum += __ldg(from + j);
      tap_sums[i] = sum;
    }
  }

  __device__ void load_words() const {
    const auto* from = reinterpret_cast<const uint4*>(args.activations.words) + groups.first * (kGroupBytes / 16);
    if (lane == 0) arrivals_open(arrivals, groups.count, 1);
    __syncwarp();
    dependency_wait();
    for (int group = lane; group < groups.count; group += 32)
      copy_bulk(words + group * (kGroupBytes / 16), from + group * (kGroupBytes / 16), kGroupBytes, arrivals + group);
    __syncwarp();
  }

  __device__ void load_input() const {
    const int thread = static_cast<int>(threadIdx.x);
    if constexpr (!kHasBulkCopies) {
      const auto* from = reinterpret_cast<const uint4*>(args.activations.words) + groups.first * (kGroupBytes / 16);
#pragma unroll 4
      for (int i = thread; i < groups.count * (kGroupBytes / 16); i += kManyThreads) copy_async(shared_address(words + i), from + i);
      copy_commit();
    }
    const float* scale_from = args.activations.scales + groups.first * kTokens;
    constexpr float kBitScale = 1.0f / kBitValue<kBytes == 2>;
    for (int i = thread; i < groups.count * kTokens; i += kManyThreads) scales[i] = __ldcg(scale_from + i) * kBitScale;
    if (has_totals())
      for (int i = thread; i < kTotalParts * kTokens; i += kManyThreads) total_parts()[i] = total_part(i / kTokens, i % kTokens);
    if constexpr (!kHasBulkCopies) copy_wait<0>();
  }

  // Sums of the rounded values of every token, in all groups: each thread block's own, or where there are several slices the first one's.
  __device__ bool has_totals() const { return args.split.slices == 1 || blockIdx.x == 0; }
  // [kTotalParts][tokens], where rows will be carried.
  __device__ float* total_parts() const { return carry - worker * kSlots * kSlotFloats; }
  __device__ float total_part(int part, int token) const {
    static_assert(kTotalParts * kTokens <= kCarryBytes / 4);
    float sum = 0.0f;
    for (int group = part; group < args.split.groups; group += kTotalParts) sum += __ldcg(args.activations.sums + group * kTokens + token);
    return sum;
  }
  __device__ void join_totals() const {
    const int token = static_cast<int>(threadIdx.x);
    if (!has_totals() || token >= kTokens) return;
    float sum = 0.0f;
#pragma unroll 8
    for (int part = 0; part < kTotalParts; ++part) sum += total_parts()[part * kTokens + token];
    if (args.split.slices > 1) args.partial[args.split.partial_sums(kTokens) + token] = sum;
    else totals[token] = sum;
  }

  // For every token the power of two that makes halves of all possible sums of a plane row. Every worker writes the same.
  __device__ void find_powers() const {
    const int token = static_cast<int>(threadIdx.x) % kWorkerThreads;
    if (token >= kTokens) return;
    float sum = 0.0f;
    for (int group = 0; group < groups.count; ++group) sum += scales[group * kTokens + token];
    sum *= static_cast<float>(kGroupColumns * kBitValue<kBytes == 2>) * (kBytes == 2 ? 32768.0f : 128.0f);
    const int exponent = static_cast<int>(__float_as_uint(sum) >> 23 & 255u);                        // sum < 2^(exponent - 126)
    powers[token] = __uint_as_float(static_cast<uint32_t>(min(max(268 - exponent, 1), 253)) << 23);  // sums < 2^15
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

  // Plane row of a tile's first, in the matrix's ring: negative before its first.
  static __device__ int first_plane(const PlaneJob& job, int tile) { return tile * kTileRows + (tile < 0 ? ManyRun::past_end(job) : 0); }

  // A row that takes from the warp's tile of a round: lane i < kReachRows has the i-th.
  __device__ ManyRow read_row(int number) const {
    ManyRow row{kNoRow, 0, 0.0f, 0.0f};
    if (number >= rounds || lane >= kReachRows) return row;
    const ManyRound& now = round[number];
    const int own = now.first[part] + lane, at = now.row + own;
    if (own >= now.first[kManyTiles] + now.left) return row;
    const PlaneJob& job = args.job[now.job];
    row.rate = __ldg(job.rate + at / kRangeRows);
    row.newest = __ldg(job.newest + at / kRangeRows) + at % kRangeRows * row.rate - first_plane(job, now.tile + part);
    if (args.split.slices > 1) return row;
    row.scale = __half2float(__ushort_as_half(__ldg(job.row_scale + at)));
    if (job.bias) row.bias = __ldg(job.bias + at);
    return row;
  }
  __device__ void write_row(const ManyRow& from) const {
    __syncwarp();
    if (lane < kReachRows) row[lane] = from;
    __syncwarp();
  }

  // The warp's band, operand A of m16n8k16: taps of kReachRows rows for the tile's plane rows, as the sum of two halves.
  __device__ void read_band(const ManyRound& now, const PlaneJob& job, uint32_t (&high)[4], uint32_t (&low)[4]) const {
    const int tile = now.tile + part, planes = tile < 0 ? -first_plane(job, tile) : kTileRows;  // those behind belong to none
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const ManyRow& of = row[lane / 4 + 8 * r];
      const float* own_taps = taps + (now.job * kRates + of.rate) * kMaxTaps;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        float value[2];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int plane = 8 * k + lane % 4 * 2 + c, tap = of.newest - plane;
          value[c] = static_cast<unsigned>(tap) < kMaxTaps && plane < planes ? own_taps[tap] : 0.0f;
        }
        high[r + 2 * k] = halves(value[0], value[1]), low[r + 2 * k] = rest_of_halves(value[0], value[1]);
      }
    }
  }

  // Filters the sums of a round's plane rows: every warp makes of its tile's what they add to the rows that take from them (a product with
  // the band). The first of these end in the tile and take from the tile before at most (two of them where the ring closes); what the next
  // ones get is carried to the next tile.
  __device__ void finish(int number, const float (&value)[kValues]) const {
    const ManyRound& now = round[number];
    const PlaneJob& job = args.job[now.job];
    const ManyRow next = read_row(number + 1);  // on its way while these are filtered
    const bool is_active = part < now.tiles;
    const int g = lane / 4, column = lane % 4 * 2, own = now.first[part + 1] - now.first[part];
    float sum[kTokens / 8][2];
    barrier(1 + worker, kWorkerThreads);  // what the last round carried within it has been read
    if (is_active) {
      uint32_t high[4], low[4];
      read_band(now, job, high, low);
      float* to = carry + (part < kManyTiles - 1 ? part : kManyTiles - 1 + number % 2) * kSlotFloats +
                  (g < own ? g + kCarriedRows - own : g - own) * kStride + column;
#pragma unroll
      for (int i = 0; i < kTokens / 8; ++i) {
        const float2 power = *reinterpret_cast<const float2*>(powers + 8 * i + column);
        uint32_t b_high[2], b_low[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float first = value[4 * i + 2 * r] * power.x, second = value[4 * i + 2 * r + 1] * power.y;
          b_high[r] = transpose_matrix(halves(first, second)), b_low[r] = transpose_matrix(rest_of_halves(first, second));
        }
        float d[4] = {};
        mma_halves(d, low, b_high[0], b_high[1]);
        mma_halves(d, high, b_low[0], b_low[1]);
        mma_halves(d, high, b_high[0], b_high[1]);
        *reinterpret_cast<float2*>(to + 8 * i) = g < own ? make_float2(d[2], d[3]) : make_float2(d[0], d[1]);
        sum[i][0] = d[0], sum[i][1] = d[1];
      }
    }
    barrier(1 + worker, kWorkerThreads);
    if (is_active && g < own) {
      if (part > 0) add_carried(part - 1, g, sum);
      else if (!now.is_first) add_carried(kManyTiles - 1 + (number + 1) % 2, g, sum);
      if (now.tile == -2 && part == 2 && g + now.first[2] - now.first[1] < kCarriedRows)
        add_carried(0, g + now.first[2] - now.first[1], sum);
      output(now, job, now.row + now.first[part] + g, sum);
    }
    write_row(next);
  }

  __device__ void add_carried(int slot, int row, float (&sum)[kTokens / 8][2]) const {
    const float* from = carry + slot * kSlotFloats + row * kStride + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kTokens / 8; ++i) {
      const float2 more = *reinterpret_cast<const float2*>(from + 8 * i);
      sum[i][0] += more.x, sum[i][1] += more.y;
    }
  }

  // A lane's row: of every eight tokens two.
  __device__ void output(const ManyRound& now, const PlaneJob& job, int row_number, const float (&sum)[kTokens / 8][2]) const {
    const int column = lane % 4 * 2;
    if (args.split.slices > 1) {
      float* to =
          args.partial + (static_cast<int64_t>(slice) * args.split.rows() + job.first_range * kRangeRows + row_number) * kTokens + column;
#pragma unroll
      for (int i = 0; i < kTokens / 8; ++i) {
        const float2 power = *reinterpret_cast<const float2*>(powers + 8 * i + column);
        *reinterpret_cast<float2*>(to + 8 * i) = make_float2(sum[i][0] * inverse_power(power.x), sum[i][1] * inverse_power(power.y));
      }
      return;
    }
    const ManyRow& own = row[lane / 4];
    const float tap_sum = tap_sums[now.job * kRates + own.rate];
    float* to = job.output + row_number;
    float before[kTokens / 8][2] = {};
    if (args.adds)
#pragma unroll
      for (int i = 0; i < kTokens / 8; ++i)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          if (8 * i + column + c < args.tokens) before[i][c] = __ldcg(to + static_cast<int64_t>(8 * i + column + c) * job.rows);
#pragma unroll
    for (int i = 0; i < kTokens / 8; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int token = 8 * i + column + c;
        if (token < args.tokens)
          to[static_cast<int64_t>(token) * job.rows] =
              before[i][c] + (own.scale * (2.0f * (sum[i][c] * inverse_power(powers[token])) - totals[token] * tap_sum) + own.bias);
      }
  }
};

template <int kTokens, int kBits, int kStages>
__global__ void __launch_bounds__(kManyThreads, 1) plane_many_kernel(const __grid_constant__ ManyArgs args) {
  extern __shared__ uint4 shared[];
  PlaneMany<kTokens, kBits, kStages>(args, shared).run();
}

}  // namespace tq::cuda
