// Attention of many consecutive rows: keys and values on their way through shared memory.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/kv_rows.cuh"
#include "kernels/cuda/prompt_block.cuh"

namespace tq::cuda {

// Tiles of keys and values on their way into shared memory: which rows, the copies, the conversion.
template <typename Form>
struct PromptTiles {
  const KvArgs& kv;
  const PromptBlock& block;
  char* shared;
  int thread, threads;
  int key_exponent = 0, value_exponent = kLowestExponent;  // of floats: halves times 2^(exponent - kUnitExponent) are the values

  __device__ int* row_numbers(int tile) const { return reinterpret_cast<int*>(shared + Form::kRowNumberAt) + tile % 2 * Form::kPositions; }
  // side 0: keys, 1: values
  __device__ char* halves_of(int stage, int side, int term) const {
    return shared + stage * Form::kStage + (side * Form::kTerms + term) * Form::kTile;
  }
  __device__ char* raw_of(int side) const { return shared + Form::kRawAt + side * Form::kRawSide; }
  __device__ float* scales_of(int side) const { return reinterpret_cast<float*>(shared + Form::kScaleAt + side * Form::kScaleSide); }
  __device__ float* key_scales() const { return reinterpret_cast<float*>(shared + Form::kKeyScaleAt); }

  // The number of the stored row of a tile's position that falls to this thread.
  __device__ int row_number(int tile) const {
    const int position = max(block.begin, min(block.end - 1, tile * Form::kPositions + thread));
    return static_cast<int>(row_index(kv, block.pages, block.kv_head, position));
  }
  __device__ bool numbers_rows() const { return thread < Form::kPositions; }

  // Padding is never written again: zeros, so that what is multiplied by zeros is finite.
  __device__ void clear() const {
    for (int i = thread * 16; i < Form::kRawAt; i += threads * 16) *reinterpret_cast<uint4*>(shared + i) = make_uint4(0, 0, 0, 0);
  }

  // Calls visit(i, position, unit) for the units of a side that are this thread's.
  template <int kUnits, typename Visit>
  __device__ __forceinline__ void for_units(int count, const Visit& visit) const {
#pragma unroll 4
    for (int i = thread; i < Form::kPositions * kUnits; i += threads) {
      const int position = i / kUnits, unit = i % kUnits;
      if (unit < count) visit(i, position, unit);
    }
  }

  __device__ void copy(int tile, int stage) const {
    const int* rows = row_numbers(tile);
    if constexpr (Form::kType == 1) {
      const uint32_t key = shared_address(halves_of(stage, 0, 0)), value = shared_address(halves_of(stage, 1, 0));
      for_units<Form::kDim / 8>(kv.head_dim / 8, [&](int, int position, int unit) {
        const int64_t from = static_cast<int64_t>(rows[position]) * kv.row_bytes + unit * 16;
        const uint32_t to = static_cast<uint32_t>(position * Form::kRow + unit * 16);
        copy_async(key + to, kv.key + from);
        copy_async(value + to, kv.value + from);
      });
    } else if constexpr (Form::kType == 0) {
      const uint32_t key = shared_address(raw_of(0)), value = shared_address(raw_of(1));
      for_units<Form::kDim / 4>(kv.head_dim / 4, [&](int i, int position, int unit) {
        const int64_t from = static_cast<int64_t>(rows[position]) * kv.row_bytes + unit * 16;
        copy_async(key + static_cast<uint32_t>(i * 16), kv.key + from);
        copy_async(value + static_cast<uint32_t>(i * 16), kv.value + from);
      });
    } else {
      const uint32_t key = shared_address(raw_of(0)), value = shared_address(raw_of(1));
      for_units<Form::kDim / 4>(kv.head_dim / 4, [&](int i, int position, int unit) {
        const int64_t from = static_cast<int64_t>(rows[position]) * kv.row_bytes + unit * 4;
        copy_async_word(key + static_cast<uint32_t>(i * 4), kv.key + from);
        copy_async_word(value + static_cast<uint32_t>(i * 4), kv.value + from);
      });
      if (numbers_rows()) {
        const int64_t from = static_cast<int64_t>(rows[thread]) * kv.row_bytes + kv.scale_at;
        copy_async_word(shared_address(scales_of(0) + thread), kv.key + from);
        copy_async_word(shared_address(scales_of(1) + thread), kv.value + from);
      }
    }
    copy_commit();
  }

  // The largest magnitudes of what this thread has copied go to where convert() finds them.
  __device__ void find_largest() const {
    if constexpr (Form::kType == 0) {
      float largest[2] = {0.0f, 0.0f};
      for (int side = 0; side < 2; ++side) {
        const auto* raw = reinterpret_cast<const float4*>(raw_of(side));
        for_units<Form::kDim / 4>(kv.head_dim / 4, [&](int i, int, int) {
          const float4 x = raw[i];
          largest[side] = fmaxf(largest[side], fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w))));
        });
        largest[side] = warp_max(largest[side]);
      }
      auto* slots = reinterpret_cast<float*>(shared + Form::kLargestAt);
      if (thread % 32 < 2) slots[thread % 32 * Form::kMostWarps + thread / 32] = thread % 32 == 0 ? largest[0] : largest[1];
    }
  }
  __device__ float largest_of(int side) const {
    const auto* slots = reinterpret_cast<const float*>(shared + Form::kLargestAt) + side * Form::kMostWarps;
    float largest = 0.0f;
    for (int w = 0; w < threads / 32; ++w) largest = fmaxf(largest, slots[w]);
    return largest;
  }

  __device__ void convert() {
    if constexpr (Form::kType == 0) {
      key_exponent = exponent_of(largest_of(0));
      value_exponent = max(value_exponent, exponent_of(largest_of(1)));
      convert_floats(0, power_of_two(kUnitExponent - key_exponent));
      convert_floats(1, power_of_two(kUnitExponent - value_exponent));
    } else if constexpr (Form::kType == 2) {
      convert_bytes();
    }
  }
  __device__ void convert_floats(int side, float scale) const {
    const auto* raw = reinterpret_cast<const float4*>(raw_of(side));
    for_units<Form::kDim / 4>(kv.head_dim / 4, [&](int i, int position, int unit) {
      const float4 x = raw[i];
#pragma unroll
      for (int t = 0; t < Form::kTerms; ++t)
        *reinterpret_cast<uint2*>(halves_of(0, side, t) + position * Form::kRow + unit * 8) =
            make_uint2(term_of(t, x.x * scale, x.y * scale), term_of(t, x.z * scale, x.w * scale));
    });
  }
  // Keys stay integers, whose scale goes to the scores; values are rounded to halves.
  __device__ void convert_bytes() const {
    const auto* key = reinterpret_cast<const uint32_t*>(raw_of(0));
    const auto* value = reinterpret_cast<const uint32_t*>(raw_of(1));
    for_units<Form::kDim / 4>(kv.head_dim / 4, [&](int i, int position, int unit) {
      const int to = position * Form::kRow + unit * 8;
      *reinterpret_cast<uint2*>(halves_of(0, 0, 0) + to) = make_uint2(bits_of(pair_of(key[i], 0)), bits_of(pair_of(key[i], 1)));
      const float scale = scales_of(1)[position];
      const float2 low = __half22float2(pair_of(value[i], 0)), high = __half22float2(pair_of(value[i], 1));
      *reinterpret_cast<uint2*>(halves_of(0, 1, 0) + to) =
          make_uint2(halves(low.x * scale, low.y * scale), halves(high.x * scale, high.y * scale));
    });
    if (numbers_rows()) key_scales()[thread] = scales_of(0)[thread];
  }
  // Bytes 2 i and 2 i + 1 of a word, signed, as halves: 1024 + 128 + x is 0x6400 | (x ^ 0x80).
  static __device__ __forceinline__ __half2 pair_of(uint32_t word, int i) {
    const uint32_t biased = __byte_perm(word ^ 0x80808080u, 0x64646464u, i == 0 ? 0x4140 : 0x4342);
    return __hsub2(*reinterpret_cast<const __half2*>(&biased), __float2half2_rn(1152.0f));
  }
};

}  // namespace tq::cuda
