// Attention of many consecutive rows: what a warp computes for its 16 rows.
#pragma once

#include "kernels/cuda/prompt_tiles.cuh"

namespace tq::cuda {

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

}  // namespace tq::cuda
