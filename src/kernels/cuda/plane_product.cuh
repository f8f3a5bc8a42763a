// The product of bit planes with int8 activations on the tensor cores (docs/kernels.md, "Planes").
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

// A warp's ring of stages in shared memory, filled by asynchronous copies: every lane copies what it alone will read, so that no barrier is
// needed.
template <int kStages>
struct TileRing {
  static constexpr int kBytes = kStages * kUnitTiles * kTileBytes;
  uint4* memory;  // [kStages][kUnitTiles][32]
  int lane;

  __device__ TileRing(void* shared, int lane_) : memory(static_cast<uint4*>(shared)), lane(lane_) {}
  // Every stage is filled in turn, with nullptr behind the end.
  __device__ void fill(int stage, const uint4* tiles) const {
    if (tiles) {
#pragma unroll
      for (int i = 0; i < kUnitTiles; ++i) copy_async(memory + (stage * kUnitTiles + i) * 32 + lane, tiles + i * 32 + lane);
    }
    copy_commit();
  }
  // Until what was filled kStages turns ago is there.
  __device__ void wait() const { copy_wait<kStages - 1>(); }
  __device__ uint4 tile(int stage, int i) const { return memory[(stage * kUnitTiles + i) * 32 + lane]; }
};

// Where in the planes a warp reads: stretches of tiles that lie one behind another, which end with a job, or, in a slice, with a row of
// tiles.
struct TileCursor {
  const uint4* at;
  int left;  // units of the stretch

  __device__ void seek(const ProductArgs& args, const Slice& slice, uint32_t unit) {
    const int units = slice.tiles / kUnitTiles, block = static_cast<int>(unit) / units, inside = static_cast<int>(unit) % units;
    int job = 0;
    while (job + 1 < args.jobs && block >= args.first_block[job + 1]) ++job;
    const int64_t row = static_cast<int64_t>(block - args.first_block[job]) * args.split.groups * kGroupTiles;
    at = static_cast<const uint4*>(args.tiles[job]) + (row + slice.first_tile + inside * kUnitTiles) * 32;
    left = (args.split.slices == 1 ? args.first_block[job + 1] - block : 1) * units - inside;
  }
};

// Sums of one block: int32 within a group of columns, float across groups. Slice j of the bits counts 2^j-fold in both.
template <int kColumns, bool kPair>
struct BlockSums {
  static constexpr int kValues = kPair ? 2 : 4;  // of a lane and slice: rows g, g + 8 of one token, or of two
  int exact[8][4];
  float value[8][kValues];

  __device__ void clear() {
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < kValues; ++i) value[j][i] = 0.0f;
    clear_exact();
  }
  __device__ void clear_exact() {
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) exact[j][i] = 0;
  }
  __device__ void multiply(const uint4& a, const uint2& b) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const uint32_t mask = 0x01010101u << j;
      mma_u8s8(exact[j], a.x & mask, a.y & mask, a.z & mask, a.w & mask, b.x, b.y);
    }
  }
  // scales: of the group, [tokens]
  __device__ void fold(const float* scales, int t) {
    const float first = scales[kPair ? t % (kColumns / 2) : 2 * t], second = kPair ? 0.0f : scales[2 * t + 1];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (kPair) {
        value[j][0] += first * static_cast<float>(exact[j][0] * 128 + exact[j][1]);
        value[j][1] += first * static_cast<float>(exact[j][2] * 128 + exact[j][3]);
      } else {
        value[j][0] += first * static_cast<float>(exact[j][0]);
        value[j][1] += second * static_cast<float>(exact[j][1]);
        value[j][2 % kValues] += first * static_cast<float>(exact[j][2]);
        value[j][3 % kValues] += second * static_cast<float>(exact[j][3]);
      }
    }
    clear_exact();
  }
  // out: of the block's first row and first token; tokens lie `stride` apart.
  __device__ void store(float* out, int64_t stride, int lane) const {
    const int g = lane / 4, t = lane % 4;
    if (kPair && t >= kColumns / 2) return;
    float* row = out + g + (kPair ? t : 2 * t) * stride;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float unit = 1.0f / static_cast<float>(1 << j);
      row[16 * j] = value[j][0] * unit;
      if (kPair) {
        row[16 * j + 8] = value[j][1] * unit;
      } else {
        row[16 * j + stride] = value[j][1] * unit;
        row[16 * j + 8] = value[j][2 % kValues] * unit;
        row[16 * j + 8 + stride] = value[j][3 % kValues] * unit;
      }
    }
  }
};

template <int kColumns, bool kPair, int kWarps, int kStages>
struct PlaneProduct {
  static constexpr int kTokens = kPair ? kColumns / 2 : kColumns;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRingBytes = kWarps * TileRing<kStages>::kBytes;
  static int shared_bytes(const Split& split) {
    int tiles = 0;
    for (int i = 0; i < split.slices; ++i) tiles = split.slice(i).tiles > tiles ? split.slice(i).tiles : tiles;
    return kRingBytes + tiles * kColumns * 32 + tiles / kGroupTiles * kTokens * 4;
  }

  static __device__ void load_input(const ProductArgs& args, const Slice& slice, uint4* words, float* scales) {
    constexpr int kFlight = 8;  // loads under way at a time
    const int count = slice.tiles * kColumns * 2, scale_count = slice.tiles / kGroupTiles * kTokens;
    const auto* from = reinterpret_cast<const uint4*>(args.input.words) + static_cast<int64_t>(slice.first_tile) * kColumns * 2;
    const float* scale_from = args.input.scales + slice.first_tile / kGroupTiles * kTokens;
    const int thread = static_cast<int>(threadIdx.x);
    const float scale = thread < scale_count ? scale_from[thread] : 0.0f;
    for (int i = thread; i < count; i += kThreads * kFlight) {
      uint4 value[kFlight];
#pragma unroll
      for (int j = 0; j < kFlight; ++j)
        if (i + j * kThreads < count) value[j] = from[i + j * kThreads];
#pragma unroll
      for (int j = 0; j < kFlight; ++j)
        if (i + j * kThreads < count) words[i + j * kThreads] = value[j];
    }
    if (thread < scale_count) scales[thread] = scale;
    for (int i = thread + kThreads; i < scale_count; i += kThreads) scales[i] = scale_from[i];
  }

  static __device__ void run(const ProductArgs& args, uint4* shared) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int per_slice = static_cast<int>(gridDim.x) / args.split.slices, part = static_cast<int>(blockIdx.x) / per_slice;
    const Slice slice = args.split.slice(part);
    const auto worker = static_cast<uint32_t>((static_cast<int>(blockIdx.x) - part * per_slice) * kWarps + warp);
    const bool has_work = worker < args.split.workers(slice);
    const uint32_t begin = has_work ? args.split.first_unit(slice, worker) : 0;
    const uint32_t end = has_work ? args.split.first_unit(slice, worker + 1) : 0;

    // The weights depend on nothing: they are under way before the activations are waited for.
    const TileRing<kStages> ring(shared + warp * (TileRing<kStages>::kBytes / 16), lane);
    TileCursor ahead;
    ahead.seek(args, slice, begin);
    uint32_t filled = begin;
    const auto fill = [&](int stage) {
      ring.fill(stage, filled < end ? ahead.at : nullptr);
      ++filled;
      ahead.at += kUnitTiles * 32;
      if (--ahead.left == 0 && filled < end) ahead.seek(args, slice, filled);
    };
#pragma unroll 1
    for (int stage = 0; stage < kStages; ++stage) fill(stage);
    launch_dependents();
    dependency_wait();
    uint4* words = shared + kRingBytes / 16;
    auto* scales = reinterpret_cast<float*>(words + slice.tiles * kColumns * 2);
    load_input(args, slice, words, scales);
    __syncthreads();

    const uint2* columns = reinterpret_cast<const uint2*>(words) + (g % kColumns) * 4 + t;
    const int64_t stride = static_cast<int64_t>(args.split.blocks) * kTileRows;
    const int units = slice.tiles / kUnitTiles;
    int block = static_cast<int>(begin / static_cast<uint32_t>(units)),
        tile = static_cast<int>(begin % static_cast<uint32_t>(units)) * kUnitTiles;
    BlockSums<kColumns, kPair> sums;
    sums.clear();
    int stage = 0;
#pragma unroll 1
    for (uint32_t unit = begin; unit < end; ++unit) {
      ring.wait();
#pragma unroll
      for (int i = 0; i < kUnitTiles; ++i) sums.multiply(ring.tile(stage, i), columns[(tile + i) * kColumns * 4]);
      fill(stage);
      if (++stage == kStages) stage = 0;
      const int group = tile / kGroupTiles;
      tile += kUnitTiles;
      const bool is_last = unit + 1 == end;
      if (tile % kGroupTiles == 0 || is_last) sums.fold(scales + group * kTokens, t);
      if (tile == slice.tiles || is_last) {
        const int slot = part * args.split.slots_per_slice + static_cast<int>(worker - args.split.first_worker(slice, block));
        sums.store(args.partial + slot * kTokens * stride + static_cast<int64_t>(block) * kTileRows, stride, lane);
        sums.clear();
        tile = 0, ++block;
      }
    }
  }
};

template <int kColumns, bool kPair, int kWarps, int kStages>
__global__ void __launch_bounds__(kWarps * 32) plane_product_kernel(const __grid_constant__ ProductArgs args) {
  extern __shared__ uint4 shared[];
  PlaneProduct<kColumns, kPair, kWarps, kStages>::run(args, shared);
}

}  // namespace tq::cuda
