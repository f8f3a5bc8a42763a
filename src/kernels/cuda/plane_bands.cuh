// The product of bit planes whose bands are decoded in registers and multiplied at once (docs/kernels.md, "Planes decoded in registers").
#pragma once

#include "kernels/cuda/bands.cuh"
#include "kernels/cuda/half_product.cuh"
#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

constexpr int kBandThreads = kBandWorkers * kBandWarps * 32;

// kTokens: of the form.
template <int kTokens>
struct PlaneBands {
  static constexpr int kWorkerThreads = kBandWarps * 32, kWarps = kBandThreads / 32;
  static constexpr int kValues = kTokens / 2;                        // sums of a lane
  static constexpr int kStages = kTokens == 64 ? 3 : 2;              // groups of tokens in shared memory: what there is room for
  static constexpr int kSteps = kTokens > 64 ? 2 : 4;                // that are decoded before they are multiplied, as registers have room
  static constexpr int kMostRate = kTokens == 128 ? 6 : kRates - 1;  // as shared memory has room for
  static constexpr int kGroupBytes = kTokens * kGroupColumns * 2, kStepBytes = kGroupBytes / 16;
  static constexpr int kTakenTiles = 2 * Bands<kMostRate>::kTaken;
  static constexpr int kTileRoom = (kMostRate + 1) * kTileBytes;  // of a warp
  static constexpr int kBandBytes = kWarps * kTakenTiles * 32 * static_cast<int>(sizeof(uint2));
  static constexpr int kSharedBytes = kStages * kGroupBytes + kWarps * kTileRoom + kBandBytes + kTokens * static_cast<int>(sizeof(float2)) +
                                      2 * kStages * 8 + kMaxJobs * kRates * kMaxTaps * 4 +
                                      kWarps * kMostSets * static_cast<int>(sizeof(UnitBand)) + kBandWorkers * 2 * 4;

  const BandArgs& args;
  const int warp, lane, worker, part;  // worker: of the thread block; part: warp of the worker
  const int begin, end;                // places
  char* words;                         // [kStages] groups
  uint32_t tiles;                      // of the warp and lane: those of a group of its band
  uint2* band_taps;                    // of the warp
  float2* of_token;                    // [kTokens] scale and sum
  uint64_t *filled, *emptied;          // [kStages]
  float* taps;                         // [jobs][kRates][kMaxTaps], as rounded to halves
  UnitBand* bands;                     // [warps][kMostSets]
  uint32_t* others;                    // [2] of the worker: how many thread blocks had come before
  const char* first = nullptr;         // tile of the band's own, of the group that is on its way
  int before = 0;                      // how many tiles behind it the one before lies: it may be the ring's last
  int stage = 0, number = 0;           // of the place that is multiplied: where its tokens lie; how many there were before
  uint32_t phase = 0;

  __device__ PlaneBands(const BandArgs& args_, char* shared)
      : args(args_),
        warp(uniform(static_cast<int>(threadIdx.x) / 32)),
        lane(static_cast<int>(threadIdx.x) % 32),
        worker(warp / kBandWarps),
        part(warp % kBandWarps),
        begin(args_.split.begin[blockIdx.x]),
        end(args_.split.begin[blockIdx.x + 1]),
        words(shared) {
    char* at = shared + kStages * kGroupBytes;
    tiles = shared_address(at) + static_cast<uint32_t>(warp * kTileRoom + lane * 16);
    at += kWarps * kTileRoom;
    band_taps = reinterpret_cast<uint2*>(at) + warp * kTakenTiles * 32;
    at += kBandBytes;
    of_token = reinterpret_cast<float2*>(at);
    filled = reinterpret_cast<uint64_t*>(of_token + kTokens), emptied = filled + kStages;
    bands = reinterpret_cast<UnitBand*>(emptied + kStages);
    taps = reinterpret_cast<float*>(bands + kWarps * kMostSets);
    others = reinterpret_cast<uint32_t*>(taps + kMaxJobs * kRates * kMaxTaps) + 2 * worker;
  }

  // A group's tiles of the warp's band, on their way to shared memory while the group before is multiplied: every lane copies what it alone
  // will read.
  template <int kRate>
  __device__ __forceinline__ void fetch() const {
    copy_async(tiles, first + static_cast<int64_t>(before) * kTileBytes);
#pragma unroll
    for (int i = 0; i < kRate; ++i) copy_async(tiles + (i + 1) * kTileBytes, first + i * tile_stride());
    copy_commit();
  }
  // The first one of a set, or of the first one behind it in which the warp has a band.
  __device__ void fetch_set(int set) {
    const int groups = args.split.groups;
    for (; set * groups < end; ++set) {
      const UnitBand own = band(set);
      if (own.rate == 0) continue;
      const PlaneJob& job = args.job[own.job];
      const char* from = static_cast<const char*>(job.tiles) + (max(begin - set * groups, 0) * kTileBytes + lane * 16);
      first = from + own.tile * static_cast<int64_t>(tile_stride());
      before = (own.tile > 0 ? -1 : job.tile_count() - 1) * groups;
      copy_async(tiles, first + static_cast<int64_t>(before) * kTileBytes);
#pragma unroll 1
      for (int i = 0; i < own.rate; ++i) copy_async(tiles + (i + 1) * kTileBytes, first + i * tile_stride());
      copy_commit();
      return;
    }
  }

  // Bytes from a row of tiles to the next.
  __device__ uint32_t tile_stride() const { return static_cast<uint32_t>(args.split.groups * kTileBytes); }
  __device__ const UnitBand& band(int set) const { return bands[warp * kMostSets + set - begin / args.split.groups]; }

  __device__ __forceinline__ void run() {
    const int groups = args.split.groups;
    const bool loads_groups = warp == kWarps - 1;
    if (loads_groups && lane == 0) arrivals_open(filled, kStages, kCopyArrivals), arrivals_open(emptied, kStages, kWarps);
    __syncwarp();
    const TapValues own_taps = read_taps();
    find_bands();
    fetch_set(begin / groups);
    launch_dependents();
    write_taps(own_taps);
    dependency_wait();
    if (loads_groups)
      for (int i = 0; i < kStages && begin + i < end; ++i) load_group(begin + i, i);
    if (threadIdx.x < kTokens)
      of_token[threadIdx.x] = make_float2(__ldcg(args.activations.scales + threadIdx.x), __ldcg(args.activations.sums + threadIdx.x));
    __syncthreads();
    for (int place = begin; place < end;) {
      const int set = uniform(place / groups), last = min(end, (set + 1) * groups), from = place;
      float value[kValues] = {};
      const uint32_t rates = enter_set(set);
#pragma unroll 1
      for (; place < last; ++place) multiply(place + 1 < last, set, rates, value);
      finish(set, from > set * groups || last < (set + 1) * groups, from, value);
    }
  }

  // The warp's bands in all sets, of each lane one, from the tables of weights.
  static_assert(kMostSets == 32 && kBandSums == 2 * kBandWorkers * kUnitRows);
  __device__ void find_bands() const {
    const int unit = (begin / args.split.groups + lane) * kBandWorkers + worker;
    bands[warp * kMostSets + lane] = find_band(args.job, args.jobs, unit, part);
    __syncwarp();
  }

  // All taps of all matrices, as they are rounded to halves, of each thread some.
  static constexpr int kTapFloats = kMaxJobs * kRates * kMaxTaps;
  struct TapValues {
    float value[(kTapFloats + kBandThreads - 1) / kBandThreads];
  };
  __device__ TapValues read_taps() const {
    TapValues read;
    for (int i = static_cast<int>(threadIdx.x), k = 0; k < static_cast<int>(sizeof(read) / sizeof(float)); i += kBandThreads, ++k) {
      read.value[k] = 0.0f;
      if (i < args.jobs * kRates * kMaxTaps) read.value[k] = __ldg(args.job[i / (kRates * kMaxTaps)].taps + i % (kRates * kMaxTaps));
    }
    return read;
  }
  __device__ void write_taps(const TapValues& read) const {
    for (int i = static_cast<int>(threadIdx.x), k = 0; k < static_cast<int>(sizeof(read) / sizeof(float)); i += kBandThreads, ++k)
      if (i < kTapFloats) taps[i] = rounded_tap(read.value[k]);
  }

  // Tokens of a place, by a warp.
  __device__ __forceinline__ void load_group(int place, int to) const {
    const char* from =
        reinterpret_cast<const char*>(args.activations.words) + static_cast<int64_t>(place % args.split.groups) * kGroupBytes;
    copy_arriving(words + to * kGroupBytes, from, kGroupBytes, filled + to, lane);
  }
  // Where the tokens of the place before were come others, once all have multiplied them: by a warp, in turn.
  __device__ __forceinline__ void refill() const {
    const int place = begin + number - 1 + kStages;
    if (number == 0 || place >= end || warp != number % kWarps) return;
    const int to = stage == 0 ? kStages - 1 : stage - 1;
    arrival_wait(emptied + to, stage == 0 ? phase ^ 1u : phase);
    load_group(place, to);
  }

  template <int kRate>
  __device__ void store_taps(const float* of, int window) const {
#pragma unroll 1
    for (int i = 0; i < 2 * Bands<kRate>::kTaken; ++i) band_taps[i * 32 + lane] = Bands<kRate>::taps_of(of, window, lane, i);
  }

  // The taps of the warp's band; returns the rates that the worker's bands have, as bits.
  __device__ __forceinline__ uint32_t enter_set(int set) const {
    const UnitBand own = band(set);
    uint32_t rates = 0;
    for (int i = 0; i < kBandWarps; ++i) rates |= 1u << bands[(worker * kBandWarps + i) * kMostSets + set - begin / args.split.groups].rate;
    __syncwarp();
    const float* of = taps + (own.job * kRates + own.rate) * kMaxTaps;
    const int window = args.job[own.job].windows[own.rate];
    with_rate<kMostRate>(own.rate, [&]<int kRate>() { store_taps<kRate>(of, window); });
    __syncwarp();
    return static_cast<uint32_t>(uniform(static_cast<int>(rates & ~1u)));
  }

  // A place: a group of the set's columns. Where bands of a worker differ in their rates, those of each in turn.
  // has_next: there is another one of it.
  __device__ __forceinline__ void multiply(bool has_next, int set, uint32_t rates, float (&value)[kValues]) {
    arrival_wait(filled + stage, phase);
    if (rates == 0) refill();
    const int own = uniform(band(set).rate);
    const uint32_t operand = product_operand<kTokens>(words + stage * kGroupBytes);
    for (uint32_t left = rates; left != 0; left &= left - 1) {
      const int rate = __ffs(static_cast<int>(left)) - 1;
      const bool is_first = left == rates, is_own = rate == own;
      with_rate<kMostRate>(rate, [&]<int kRate>() { multiply_band<kRate>(operand, is_first, is_own, has_next, set, value); });
    }
    __syncwarp();
    if (lane == 0) arrive(emptied + stage);
    ++number;
    if (++stage == kStages) stage = 0, phase ^= 1u;
  }

  // is_own: the warp's band has this rate; else it adds nothing. is_first: of the place.
  template <int kRate>
  __device__ __forceinline__ void multiply_band(uint32_t operand, bool is_first, bool is_own, bool has_next, int set,
                                                float (&value)[kValues]) {
    using Product = Bands<kRate>;
    uint2 band[2 * Product::kTaken];
#pragma unroll
    for (int i = 0; i < 2 * Product::kTaken; ++i) band[i] = is_own ? band_taps[i * 32 + lane] : make_uint2(0, 0);
    if (is_own) copy_wait<0>();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint2 words[Product::kTiles];
      uint32_t bits[Product::kTiles][2];
#pragma unroll
      for (int i = 0; i < Product::kTiles; ++i) words[i] = is_own ? load_shared_pair(tiles + i * kTileBytes + half * 8) : make_uint2(0, 0);
      Product::turn(words, bits);
      if (half == 1) {
        if (is_own) {
          first += kTileBytes;
          if (has_next) fetch<kRate>();
          else fetch_set(set + 1);
        }
        if (is_first) refill();
      }
      multiply_steps<kRate, 0, 0>(bits, band, operand + 8 * half * (kStepBytes / 16), value);
      multiply_steps<kRate, 1, 0>(bits, band, operand + 8 * half * (kStepBytes / 16), value);
    }
  }
  // Of the bits of a byte, kSteps steps at a time, from step kFirst on. operand: of the half's first step.
  template <int kRate, int kByte, int kFirst>
  __device__ __forceinline__ void multiply_steps(const uint32_t (&bits)[Bands<kRate>::kTiles][2],
                                                 const uint2 (&band)[2 * Bands<kRate>::kTaken], uint32_t operand, float (&value)[kValues]) {
    uint32_t a[kSteps][4];
    Bands<kRate>::template decode<kByte, kFirst, kSteps>(bits, band, a);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) product_ready(a[step]);
    uint32_t from = operand + (4 * kByte + kFirst) * (kStepBytes / 16);
    asm volatile("" : "+r"(from));  // operands are not computed for all rates beforehand, since they would be spilled
    product_begin();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) product_step(value, a[step], from + step * (kStepBytes / 16));
    product_end();
    if constexpr (kFirst + kSteps < 4) multiply_steps<kRate, kByte, kFirst + kSteps>(bits, band, operand, value);
  }

  // Sums of a set to outputs; where others have a part of them, by the last one that comes.
  __device__ __forceinline__ void finish(int set, bool is_shared, int from, float (&value)[kValues]) const {
    if (is_shared && !join(set, from, value)) return;
    const UnitBand own = band(set);
    if (own.rate == 0) return;
    const PlaneJob& job = args.job[own.job];
    const float* of = taps + (own.job * kRates + own.rate) * kMaxTaps;
    const float tap_sum = warp_sum(lane < kMaxTaps ? of[lane] : 0.0f);
    const int row = own.row + lane / 4;
    float row_scale[2], bias[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_scale[r] = __half2float(__ushort_as_half(__ldg(job.row_scale + row + 8 * r)));
      bias[r] = job.bias ? __ldg(job.bias + row + 8 * r) : 0.0f;
    }
    constexpr int kAtATime = kTokens / 8 % 8 == 0 ? 8 : 4;  // of eight tokens: what stands there is read before anything is written
#pragma unroll
    for (int eight = 0; eight < kTokens / 8; eight += kAtATime) {
      const auto output_of = [&](int i, int k) {
        return job.output + static_cast<int64_t>(8 * (eight + i) + lane % 4 * 2 + k % 2) * job.rows + (row + 8 * (k / 2));
      };
      const auto is_there = [&](int i, int k) { return 8 * (eight + i) + lane % 4 * 2 + k % 2 < args.tokens; };
      float sum[kAtATime][4] = {};
      if (args.adds)
#pragma unroll
        for (int i = 0; i < kAtATime; ++i)
#pragma unroll
          for (int k = 0; k < 4; ++k)
            if (is_there(i, k)) sum[i][k] = __ldcg(output_of(i, k));
#pragma unroll
      for (int i = 0; i < kAtATime; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (!is_there(i, k)) continue;
          const float2 token = of_token[8 * (eight + i) + lane % 4 * 2 + k % 2];
          *output_of(i, k) =
              sum[i][k] + (row_scale[k / 2] * (token.x * (2.0f * value[4 * (eight + i) + k] - token.y * tap_sum)) + bias[k / 2]);
        }
    }
  }

  // Leaves a worker's sums to the others; true for the last to come, which then has those of all. Of two the first to come leaves its own,
  // and the other waits until they are there: whatever the order, it is the same sum.
  __device__ __forceinline__ bool join(int set, int from, float (&value)[kValues]) const {
    const Range blocks = args.split.blocks_of(set, static_cast<int>(blockIdx.x));
    const int thread = static_cast<int>(threadIdx.x) % kWorkerThreads, first_place = set * args.split.groups;
    const auto sums_of = [&](int block, bool is_first) {
      return reinterpret_cast<float4*>(args.partial) +
             (static_cast<int64_t>(2 * block + (is_first ? 0 : 1)) * kBandWorkers + worker) * (kValues / 4 * kWorkerThreads) + thread;
    };
    const auto leave = [&] {
      float4* own = sums_of(static_cast<int>(blockIdx.x), from == begin);
#pragma unroll
      for (int i = 0; i < kValues / 4; ++i)
        __stcg(own + i * kWorkerThreads, make_float4(value[4 * i], value[4 * i + 1], value[4 * i + 2], value[4 * i + 3]));
      barrier(1 + worker, kWorkerThreads);
    };
    const auto add = [&](int block) {
      const float4* sums = sums_of(block, args.split.begin[block] >= first_place);
      float4 more[kValues / 4];
#pragma unroll
      for (int i = 0; i < kValues / 4; ++i) more[i] = __ldcg(sums + i * kWorkerThreads);
#pragma unroll
      for (int i = 0; i < kValues / 4; ++i)
        value[4 * i] += more[i].x, value[4 * i + 1] += more[i].y, value[4 * i + 2] += more[i].z, value[4 * i + 3] += more[i].w;
    };
    uint32_t* arrived = args.arrived + set * kBandWorkers + worker;
    const bool are_two = blocks.count == 2;
    if (!are_two) leave();
    uint32_t* before = others + (from == begin ? 0 : 1);  // a thread block shares two sets at most
    if (thread == 0) *before = add_acquire_release(arrived, 1);
    barrier(1 + worker, kWorkerThreads);
    const uint32_t came = *before;
    if (are_two && came == 0) {
      leave();
      if (thread == 0) add_acquire_release(arrived, 1);
      return false;
    }
    if (!are_two && came + 1 < static_cast<uint32_t>(blocks.count)) return false;
    if (thread == 0) {
      if (are_two)
        while (load_acquire(arrived) < 3) {
        }  // both, and what the first one left
      *arrived = 0;
    }
    if (are_two) {
      barrier(1 + worker, kWorkerThreads);
      add(blocks.first == static_cast<int>(blockIdx.x) ? blocks.first + 1 : blocks.first);
      return true;
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) value[i] = 0.0f;
    constexpr int kAtATime = kTokens >= 128 ? 1 : 128 / kTokens;  // on their way
#pragma unroll kAtATime
    for (int i = 0; i < blocks.count; ++i) add(blocks.first + i);
    return true;
  }
};

template <int kTokens>
__global__ void __launch_bounds__(kBandThreads, 1) plane_bands_kernel(const __grid_constant__ BandArgs args) {
  extern __shared__ __align__(128) char bands_shared[];
  PlaneBands<kTokens>(args, bands_shared).run();
}

}  // namespace tq::cuda
