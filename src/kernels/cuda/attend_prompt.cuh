// Causal attention of many consecutive rows on the tensor cores (m16n8k16, halves in, floats out). The rows of a thread block are the
// queries of one head of keys, token by token and its heads within: row r of a stretch is token r / group, head r % group. Each warp has 16
// of them; tiles of positions pass by in shared memory, softmax is online.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/dense_args.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/half_terms.cuh"
#include "kernels/cuda/kv_rows.cuh"

namespace tq::cuda {

constexpr int kWarpRows = 16;
constexpr int kUnitExponent = 13;      // where such scaling puts the largest exponent
constexpr float kWeightExponent = 15;  // weights of the softmax are up to 2^15 in halves, so that small ones keep their bits
constexpr float kLog2E = 1.44269504f;

// How a kernel works: KvType, head_dim at most, the halves that a query and a weight are the sum of, positions of a tile.
template <int kTypeOf, int kDimOf, int kQueryTermsOf, int kWeightTermsOf, int kPositionsOf>
struct PromptForm {
  static constexpr int kType = kTypeOf, kDim = kDimOf, kQueryTerms = kQueryTermsOf, kWeightTerms = kWeightTermsOf;
  static constexpr int kPositions = kPositionsOf;
  static constexpr bool kIsStaged = kType != 1;               // keys and values arrive raw and are converted
  static constexpr int kTerms = kType == 0 ? 2 : 1;           // of a key or value
  static constexpr int kSteps = kDim / 16;                    // products of 16 dimensions
  static constexpr int kHeld = kDim > 128 ? 1 : kQueryTerms;  // terms of the query in registers, the others in shared memory
  static constexpr int kMostWarps = kDim > 128 ? 4 : 8;
  static constexpr int kPart = kSteps % 4 == 0 ? 4 : 3;  // pairs of value columns whose fragments are read together
  static constexpr int kKeyPart = kPositions >= 64 ? 4 : kPositions / 16;

  // Shared memory in bytes. Rows are 16 bytes longer than they need be: eight of them at the same column lie in different banks.
  static constexpr int kRow = kDim * 2 + 16, kTile = kPositions * kRow;
  static constexpr int kStage = 2 * kTerms * kTile;
  static constexpr int kRawRow = kType == 0 ? kDim * 4 : kDim, kRawSide = kIsStaged ? kPositions * kRawRow : 0;
  static constexpr int kScaleSide = kType == 2 ? kPositions * 4 : 0;
  static constexpr int kRawAt = (kIsStaged ? 1 : 2) * kStage;
  static constexpr int kScaleAt = kRawAt + 2 * kRawSide;         // as they arrive
  static constexpr int kKeyScaleAt = kScaleAt + 2 * kScaleSide;  // of the tile that is multiplied
  static constexpr int kRowNumberAt = kKeyScaleAt + kScaleSide;
  static constexpr int kLargestAt = kRowNumberAt + 2 * kPositions * 4;
  static constexpr int kQueryAt = kLargestAt + 2 * kMostWarps * 4;
  static constexpr int kWarpQuery = (kQueryTerms - kHeld) * kSteps * 512;
  static constexpr int shared_bytes(int warps) { return kQueryAt + warps * kWarpQuery; }
  static_assert(kDim % 16 == 0 && kPositions % 16 == 0 && (kPositions / 16) % kKeyPart == 0 && kSteps % kPart == 0 && kQueryAt % 16 == 0);
};

// Term t of two values.
__device__ __forceinline__ uint32_t term_of(int t, float low, float high) { return t == 0 ? halves(low, high) : rest_of_halves(low, high); }

// What a thread block works on.
struct PromptBlock {
  const int32_t* pages;
  int kv_head, group;
  int first_row, rows;  // of the stretch, in the thread block
  int64_t first_token;  // of the stretch, in the batch
  int first_position;   // of the stretch
  int begin, end;       // positions that its rows see
  __device__ int position(int row) const { return first_position + row / group; }
};

__device__ __forceinline__ PromptBlock block_of(const AttendPromptArgs& args) {
  PromptBlock block;
  block.group = args.heads / args.kv.kv_heads;
  const int index = static_cast<int>(blockIdx.x), block_rows = static_cast<int>(blockDim.x) / 32 * kWarpRows;
  const int tile = args.tiles - 1 - index / args.kv.kv_heads;  // the longest come first
  block.kv_head = index % args.kv.kv_heads;
  int s = args.stretches - 1;
  while (args.stretch[s].first_tile > tile) --s;
  const PromptStretch& stretch = args.stretch[s];
  block.first_row = (tile - stretch.first_tile) * block_rows;
  block.rows = min(block_rows, stretch.tokens * block.group - block.first_row);
  block.first_token = stretch.first_row;
  const Place& place = args.place[stretch.first_row];
  block.pages = place.pages, block.first_position = static_cast<int>(place.position);
  block.end = block.position(block.first_row + block.rows - 1) + 1;
  block.begin = args.window > 0 ? max(0, block.position(block.first_row) + 1 - args.window) : 0;
  return block;
}

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

// A warp's 16 rows. A lane has elements of rows lane / 4 and lane / 4 + 8 (`i` below), columns 2 (lane % 4) + {0, 1} of every eight.
template <typename Form>
struct PromptRows {
  static constexpr float kNone = -1e30f;  // the largest score of no positions

  int lane, group;
  bool is_there[2];
  int64_t query_at[2], output_at[2];  // the rows' first elements
  int position[2], begin[2];          // the last and the first position that a row sees
  int first_position, last_position;  // the smallest and largest of the warp's `position`
  int first_begin, last_begin;
  float factor[2];  // from the product to a score in powers of two
  uint32_t query[Form::kHeld][Form::kSteps][4];
  char* other_query;  // the term that is in shared memory, this lane's
  float largest[2], weight[2];
  float sum[Form::kDim / 8][4];
  int exponent = kLowestExponent;  // of floats: sums times 2^(exponent - kUnitExponent) are in units of the values

  __device__ void place(const AttendPromptArgs& args, const PromptBlock& block, int warp, int of_lane) {
    lane = of_lane, group = block.group;
    const int first = block.first_row + warp * kWarpRows, end = block.first_row + block.rows;
    for (int i = 0; i < 2; ++i) {
      const int row = first + lane / 4 + 8 * i;
      is_there[i] = row < end;
      const int token = min(row, end - 1) / group, head = block.kv_head * group + min(row, end - 1) % group;
      position[i] = block.first_position + token;
      begin[i] = begin_of(args, position[i]);
      query_at[i] = (block.first_token + token) * args.stride + head * args.kv.head_dim;
      output_at[i] = ((block.first_token + token) * args.heads + head) * args.kv.head_dim;
      largest[i] = kNone, weight[i] = 0.0f;
    }
    first_position = block.position(min(first, end - 1)), last_position = block.position(min(first + kWarpRows, end) - 1);
    first_begin = begin_of(args, first_position), last_begin = begin_of(args, last_position);
    if (first >= end) last_position = -1;  // sees nothing
#pragma unroll
    for (int n = 0; n < Form::kDim / 8; ++n) sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0.0f;
  }
  static __device__ int begin_of(const AttendPromptArgs& args, int last) { return args.window > 0 ? max(0, last + 1 - args.window) : 0; }

  // Columns `column` and the next of row i.
  __device__ float2 query_pair(const AttendPromptArgs& args, int i, int column) const {
    return is_there[i] && column < args.kv.head_dim ? *reinterpret_cast<const float2*>(args.query + query_at[i] + column)
                                                    : make_float2(0.0f, 0.0f);
  }
  // Each row is scaled by a power of two and split into terms.
  __device__ void load_query(const AttendPromptArgs& args, char* shared) {
    float scale[2] = {0.0f, 0.0f};
    const int column = lane % 4 * 2;
    for (int i = 0; i < 2; ++i) {
      for (int c = column; c < Form::kDim; c += 8) {
        const float2 pair = query_pair(args, i, c);
        scale[i] = fmaxf(scale[i], fmaxf(fabsf(pair.x), fabsf(pair.y)));
      }
      const int exponent_of_row = exponent_of(quad_max(scale[i]));
      scale[i] = power_of_two(kUnitExponent - exponent_of_row);
      factor[i] = args.scale * kLog2E * power_of_two(exponent_of_row - kUnitExponent);
    }
    other_query = shared + lane * 16;
#pragma unroll
    for (int step = 0; step < Form::kSteps; ++step) {
      float2 pair[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        pair[j] = query_pair(args, j % 2, step * 16 + j / 2 * 8 + column);
        pair[j].x *= scale[j % 2], pair[j].y *= scale[j % 2];
      }
#pragma unroll
      for (int t = 0; t < Form::kQueryTerms; ++t) {
        uint32_t terms[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) terms[j] = term_of(t, pair[j].x, pair[j].y);
        if (t < Form::kHeld) {
#pragma unroll
          for (int j = 0; j < 4; ++j) query[t < Form::kHeld ? t : 0][step][j] = terms[j];
        } else {
          *reinterpret_cast<uint4*>(other_query + step * 512) = make_uint4(terms[0], terms[1], terms[2], terms[3]);
        }
      }
    }
  }
  __device__ __forceinline__ void query_term(int t, int step, uint32_t (&to)[4]) const {
    if (t < Form::kHeld) {
#pragma unroll
      for (int j = 0; j < 4; ++j) to[j] = query[t < Form::kHeld ? t : 0][step][j];
    } else {
      const uint4 terms = *reinterpret_cast<const uint4*>(other_query + step * 512);
      to[0] = terms.x, to[1] = terms.y, to[2] = terms.z, to[3] = terms.w;
    }
  }

  static __device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
  }
  static __device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
  }

  __device__ bool sees(int first) const { return first <= last_position && first + Form::kPositions > first_begin; }

  // keys, values: shared addresses of the tile's first term.
  __device__ __forceinline__ void add(const AttendPromptArgs& args, const PromptTiles<Form>& tiles, int first, uint32_t keys,
                                      uint32_t values) {
    float score[Form::kPositions / 8][4];
    multiply_keys(keys, score);
    scale_scores(args, tiles, score);
    if (first + Form::kPositions - 1 > first_position || first < last_begin) mask(first, score);
    float shrink[2];
    softmax(score, shrink);
    if constexpr (Form::kType == 0) {
      const float change = power_of_two(exponent - tiles.value_exponent);
      exponent = tiles.value_exponent;
      shrink[0] *= change, shrink[1] *= change;
    }
    if (__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
      for (int n = 0; n < Form::kDim / 8; ++n) {
        sum[n][0] *= shrink[0], sum[n][1] *= shrink[0];
        sum[n][2] *= shrink[1], sum[n][3] *= shrink[1];
      }
    }
    multiply_values(values, score);
  }

  // Fragments of keys: 16 positions x 16 dimensions are B of two products; [0], [1] the first eight positions, [2], [3] the others.
  __device__ __forceinline__ void multiply_keys(uint32_t keys, float (&score)[Form::kPositions / 8][4]) const {
#pragma unroll
    for (int n = 0; n < Form::kPositions / 8; ++n) score[n][0] = score[n][1] = score[n][2] = score[n][3] = 0.0f;
    const uint32_t at = keys + static_cast<uint32_t>((lane % 8 + lane / 16 * 8) * Form::kRow + lane / 8 % 2 * 16);
#pragma unroll
    for (int step = 0; step < Form::kSteps; ++step) {
      uint32_t terms[Form::kQueryTerms][4];
#pragma unroll
      for (int t = 0; t < Form::kQueryTerms; ++t) query_term(t, step, terms[t]);
#pragma unroll
      for (int part = 0; part < Form::kPositions / 16; part += Form::kKeyPart) {
#pragma unroll
        for (int k = 0; k < Form::kTerms; ++k) {
          uint32_t key[Form::kKeyPart][4];
#pragma unroll
          for (int p = 0; p < Form::kKeyPart; ++p)
            load_matrices(key[p], at + static_cast<uint32_t>(k * Form::kTile + (part + p) * 16 * Form::kRow + step * 32));
#pragma unroll
          for (int t = 0; t < (k == 0 ? Form::kQueryTerms : 1); ++t)
#pragma unroll
            for (int p = 0; p < Form::kKeyPart; ++p) {
              mma_halves(score[2 * (part + p)], terms[t], key[p][0], key[p][1]);
              mma_halves(score[2 * (part + p) + 1], terms[t], key[p][2], key[p][3]);
            }
        }
      }
    }
  }

  __device__ __forceinline__ void scale_scores(const AttendPromptArgs& args, const PromptTiles<Form>& tiles,
                                               float (&score)[Form::kPositions / 8][4]) const {
    float by[2] = {factor[0], factor[1]};
    if constexpr (Form::kType == 0) {
      const float unit = power_of_two(tiles.key_exponent - kUnitExponent);
      by[0] *= unit, by[1] *= unit;
    }
#pragma unroll
    for (int n = 0; n < Form::kPositions / 8; ++n) {
      float2 scale = make_float2(1.0f, 1.0f);
      if constexpr (Form::kType == 2) scale = *reinterpret_cast<const float2*>(tiles.key_scales() + n * 8 + lane % 4 * 2);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        score[n][j] *= by[j / 2];
        if constexpr (Form::kType == 2) score[n][j] *= j % 2 == 0 ? scale.x : scale.y;
      }
    }
    if (args.softcap > 0.0f) {
      const float inverse = 1.0f / (kLog2E * args.softcap), cap = kLog2E * args.softcap;
#pragma unroll
      for (int n = 0; n < Form::kPositions / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) score[n][j] = cap * tanhf(score[n][j] * inverse);
    }
  }

  __device__ __forceinline__ void mask(int first, float (&score)[Form::kPositions / 8][4]) const {
#pragma unroll
    for (int n = 0; n < Form::kPositions / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int at = first + n * 8 + lane % 4 * 2 + j % 2;
        if (at > position[j / 2] || at < begin[j / 2]) score[n][j] = -INFINITY;
      }
  }

  // Scores become weights; shrink: what sums so far are worth now.
  __device__ __forceinline__ void softmax(float (&score)[Form::kPositions / 8][4], float (&shrink)[2]) {
    float base[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = kNone;
#pragma unroll
      for (int n = 0; n < Form::kPositions / 8; ++n) top = fmaxf(top, fmaxf(score[n][2 * i], score[n][2 * i + 1]));
      top = fmaxf(largest[i], quad_max(top));
      shrink[i] = exp2_approximate(largest[i] - top);
      largest[i] = top;
      base[i] = top - kWeightExponent;
      weight[i] *= shrink[i];
    }
#pragma unroll
    for (int n = 0; n < Form::kPositions / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        score[n][j] = exp2_approximate(score[n][j] - base[j / 2]);
        weight[j / 2] += score[n][j];
      }
  }

  // The weights of 16 positions are A as they lie. Fragments of values, transposed: 16 positions x 16 dimensions are B of two products;
  // [0], [1] the first eight dimensions, [2], [3] the others.
  __device__ __forceinline__ void multiply_values(uint32_t values, const float (&score)[Form::kPositions / 8][4]) {
    const uint32_t at = values + static_cast<uint32_t>((lane % 8 + lane / 8 % 2 * 8) * Form::kRow + lane / 16 * 16);
#pragma unroll
    for (int step = 0; step < Form::kPositions / 16; ++step) {
      uint32_t terms[Form::kWeightTerms][4];
#pragma unroll
      for (int t = 0; t < Form::kWeightTerms; ++t)
#pragma unroll
        for (int j = 0; j < 4; ++j) terms[t][j] = term_of(t, score[2 * step + j / 2][j % 2 * 2], score[2 * step + j / 2][j % 2 * 2 + 1]);
#pragma unroll
      for (int part = 0; part < Form::kSteps; part += Form::kPart)
#pragma unroll
        for (int v = 0; v < Form::kTerms; ++v) {
          uint32_t value[Form::kPart][4];
#pragma unroll
          for (int p = 0; p < Form::kPart; ++p)
            load_matrices_transposed(value[p], at + static_cast<uint32_t>(v * Form::kTile + step * 16 * Form::kRow + (part + p) * 32));
#pragma unroll
          for (int t = 0; t < (v == 0 ? Form::kWeightTerms : 1); ++t)
#pragma unroll
            for (int p = 0; p < Form::kPart; ++p) {
              mma_halves(sum[2 * (part + p)], terms[t], value[p][0], value[p][1]);
              mma_halves(sum[2 * (part + p) + 1], terms[t], value[p][2], value[p][3]);
            }
        }
    }
  }

  __device__ void store(const AttendPromptArgs& args) const {
    const float unit = Form::kType == 0 ? power_of_two(exponent - kUnitExponent) : 1.0f;
    for (int i = 0; i < 2; ++i) {
      const float by = unit / quad_sum(weight[i]);
      if (!is_there[i]) continue;
      float* to = args.output + output_at[i] + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < Form::kDim / 8; ++n)
        if (n * 8 < args.kv.head_dim) *reinterpret_cast<float2*>(to + n * 8) = make_float2(sum[n][2 * i] * by, sum[n][2 * i + 1] * by);
    }
  }
};

// grid: tiles of rows x heads of keys; up to kMostWarps warps.
template <typename Form>
__global__ void __launch_bounds__(Form::kMostWarps * 32) attend_prompt_kernel(const __grid_constant__ AttendPromptArgs args) {
  extern __shared__ __align__(16) char prompt_shared[];
  launch_dependents();
  dependency_wait();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const PromptBlock block = block_of(args);
  PromptTiles<Form> tiles{args.kv, block, prompt_shared, thread, static_cast<int>(blockDim.x)};
  int tile = block.begin / Form::kPositions;
  const int end = (block.end + Form::kPositions - 1) / Form::kPositions;
  if (args.kv.head_dim < Form::kDim) tiles.clear();
  if (tiles.numbers_rows()) {
    tiles.row_numbers(tile)[thread] = tiles.row_number(tile);
    tiles.row_numbers(tile + 1)[thread] = tiles.row_number(tile + 1);
  }
  __syncthreads();
  tiles.copy(tile, Form::kIsStaged ? 0 : tile % 2);
  PromptRows<Form> rows;
  rows.place(args, block, warp, thread % 32);
  rows.load_query(args, prompt_shared + Form::kQueryAt + warp * Form::kWarpQuery);

  for (; tile < end; ++tile) {
    const int stage = Form::kIsStaged ? 0 : tile % 2;
    copy_wait<0>();
    tiles.find_largest();
    __syncthreads();  // the tile is there; the one before it is done with
    if (Form::kIsStaged) {
      tiles.convert();
      __syncthreads();
    }
    if (tile + 1 < end) tiles.copy(tile + 1, Form::kIsStaged ? 0 : 1 - stage);
    const int next_row = tiles.numbers_rows() ? tiles.row_number(tile + 2) : 0;
    const int first = tile * Form::kPositions;
    if (rows.sees(first))
      rows.add(args, tiles, first, shared_address(tiles.halves_of(stage, 0, 0)), shared_address(tiles.halves_of(stage, 1, 0)));
    if (tiles.numbers_rows()) tiles.row_numbers(tile)[thread] = next_row;
  }
  rows.store(args);
}

}  // namespace tq::cuda
