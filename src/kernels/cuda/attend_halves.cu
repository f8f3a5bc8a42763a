// Causal attention of few rows over keys and values stored as halves, on the tensor cores (m16n8k16). A thread block has one head of keys,
// its heads of queries, up to four, and a part of the positions, as in attention.cu; a warp has 16 positions at a time, whose keys and
// values go from memory to the registers that the products want: the order of dimensions and positions within a product is free.
#include "kernels/cuda/attend_parts.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/half_terms.cuh"
#include "kernels/cuda/kv_rows.cuh"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kTile = 16;             // positions of a warp at a time
constexpr int kHeads = kAttendHeads;  // products have places for 8, which gain nothing (lab/cuda-planes)
constexpr int kLeastShare = kWarps * kTile;
constexpr float kUnit = 32768.0f;  // what the largest weight of the softmax counts, so that small ones keep their bits as halves

__device__ __forceinline__ uint32_t word_of(const uint4& vector, int i) {
  return i == 0 ? vector.x : i == 1 ? vector.y : i == 2 ? vector.z : vector.w;
}

// Keys and values of a warp's 16 positions. Lane 4 g + t has of the keys the positions g and 8 + g, the dimensions 8 (4 i + t) + 0..7; of
// the values the positions 2 t + {0, 1, 8, 9} and the dimensions kDim / 8 g + 0..kDim / 8 - 1.
template <int kDim>
struct HalfRows {
  static constexpr int kKeyParts = kDim / 32, kValueParts = kDim / 64;
  uint4 key[2][kKeyParts], value[4][kValueParts];

  // The lane's positions within a tile.
  static __device__ int key_position(int n, int lane) { return 8 * n + lane / 4; }
  static __device__ int value_position(int j, int lane) { return 2 * (lane % 4) + j % 2 + j / 2 * 8; }
  static __device__ uint4 load(const char* row, int first, int dim) {
    return first < dim ? *reinterpret_cast<const uint4*>(row + 2 * first) : make_uint4(0, 0, 0, 0);
  }
  __device__ void load_key(const KvArgs& kv, int64_t row, int n, int lane) {
#pragma unroll
    for (int i = 0; i < kKeyParts; ++i) key[n][i] = load(kv.key + row, 8 * (4 * i + lane % 4), kv.head_dim);
  }
  __device__ void load_value(const KvArgs& kv, int64_t row, int j, int lane) {
#pragma unroll
    for (int i = 0; i < kValueParts; ++i) value[j][i] = load(kv.value + row, kDim / 8 * (lane / 4) + 8 * i, kv.head_dim);
  }
  // Where position `at` of the tile at `first` lies, whose own row is `tile_row`: behind it, unless pages are shorter than tiles.
  static __device__ int64_t row_of(const KvArgs& kv, const int32_t* pages, int head, int first, int64_t tile_row, int at) {
    return 1 << kv.page_shift >= kTile ? tile_row + at * kv.row_bytes : row_at(kv, pages, head, first + at);
  }
  // Of the tile at `first`, a multiple of 16; zeros from `end` on.
  __device__ void load_keys(const KvArgs& kv, const int32_t* pages, int head, int first, int end, int lane) {
    const int64_t row = first < end ? row_at(kv, pages, head, first) : 0;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int at = key_position(n, lane);
      if (first + at < end) load_key(kv, row_of(kv, pages, head, first, row, at), n, lane);
      else
#pragma unroll
        for (int i = 0; i < kKeyParts; ++i) key[n][i] = make_uint4(0, 0, 0, 0);
    }
  }
  __device__ void load_values(const KvArgs& kv, const int32_t* pages, int head, int first, int end, int lane) {
    const int64_t row = first < end ? row_at(kv, pages, head, first) : 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int at = value_position(j, lane);
      if (first + at < end) load_value(kv, row_of(kv, pages, head, first, row, at), j, lane);
      else
#pragma unroll
        for (int i = 0; i < kValueParts; ++i) value[j][i] = make_uint4(0, 0, 0, 0);
    }
  }
  // The position whose key and value, [dim], this thread block has turned itself, as they will be read from the store.
  __device__ void take_newest(const float* new_key, const float* new_value, int dim, int at, int lane) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (key_position(n, lane) != at) continue;
#pragma unroll
      for (int i = 0; i < kKeyParts; ++i) key[n][i] = rounded(new_key, 8 * (4 * i + lane % 4), dim);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (value_position(j, lane) != at) continue;
#pragma unroll
      for (int i = 0; i < kValueParts; ++i) value[j][i] = rounded(new_value, kDim / 8 * (lane / 4) + 8 * i, dim);
    }
  }
  static __device__ uint4 rounded(const float* from, int first, int dim) {
    if (first >= dim) return make_uint4(0, 0, 0, 0);
    from += first;
    return make_uint4(pair_of(from), pair_of(from + 2), pair_of(from + 4), pair_of(from + 6));
  }
  static __device__ uint32_t pair_of(const float* from) { return bits_of(__halves2half2(to_half(from[0]), to_half(from[1]))); }
};

// A warp's queries and what it has of their outputs. Row g of the first product's left side is the query of head g rounded to halves,
// row g + 8 what that has left over. Columns of the second product are heads: a lane has the sums of heads 2 t and 2 t + 1, of the
// dimensions kDim / 8 g + 2 m + {0, 1}.
template <int kDim>
struct HalfHeads {
  static constexpr int kSteps = kDim / 16;
  uint32_t query[kSteps][4];
  float unit;                               // of head g's scores
  float largest = kNothing, weight = 0.0f;  // of head g; the weight of this lane's positions
  float sum[kSteps][4] = {};                // heads (2 t, 2 t + 1) x dimensions (0, 1)

  // queries: [heads][dim]
  __device__ void load(const float* queries, int heads, int dim, float scale, int lane) {
    const int head = lane / 4;
    float value[kSteps][4], most = 0.0f;
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = 8 * (s / 2 * 4 + lane % 4) + s % 2 * 4 + i;
        value[s][i] = head < heads && k < dim ? queries[head * dim + k] : 0.0f;
        most = fmaxf(most, fabsf(value[s][i]));
      }
    const int exponent = min(exponent_of(quad_max(most)), 126);
    const float factor = power_of_two(-exponent);
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float low = value[s][2 * i] * factor, high = value[s][2 * i + 1] * factor;
        query[s][2 * i] = halves(low, high), query[s][2 * i + 1] = rest_of_halves(low, high);
      }
    unit = power_of_two(exponent) * scale;
  }
  static __device__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
  }

  // Scores of head g at the positions first + 2 t + {0, 1, 8, 9}; none outside of [begin, end).
  __device__ void multiply_keys(const HalfRows<kDim>& rows, int first, int begin, int end, float softcap, int lane,
                                float (&score)[4]) const {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float d[4] = {};
#pragma unroll
      for (int s = 0; s < kSteps; ++s)
        mma_halves(d, query[s], word_of(rows.key[n][s / 2], s % 2 * 2), word_of(rows.key[n][s / 2], s % 2 * 2 + 1));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int at = first + 8 * n + 2 * (lane % 4) + i;
        float value = (d[i] + d[i + 2]) * unit;
        if (softcap > 0.0f) value = softcap * tanhf(value / softcap);
        score[2 * n + i] = at >= begin && at < end ? value : kNothing;
      }
    }
  }
  // Weights in place of scores; sums so far are brought to the new largest score.
  __device__ void softmax(float (&score)[4], int lane) {
    const float top = fmaxf(largest, quad_max(fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]))));
    const float shrink = __expf(largest - top);
    if (__any_sync(0xffffffffu, top > largest)) {
      const float first = __shfl_sync(0xffffffffu, shrink, lane % 4 * 8), second = __shfl_sync(0xffffffffu, shrink, lane % 4 * 8 + 4);
#pragma unroll
      for (int s = 0; s < kSteps; ++s) sum[s][0] *= first, sum[s][1] *= second, sum[s][2] *= first, sum[s][3] *= second;
    }
    largest = top, weight *= shrink;
#pragma unroll
    for (float& value : score) value = value <= kNothing ? 0.0f : __expf(value - top) * kUnit, weight += value;
  }
  __device__ void multiply_values(const HalfRows<kDim>& rows, const float (&part)[4]) {
    const uint32_t low = halves(part[0], part[1]), high = halves(part[2], part[3]);
    const uint32_t low_rest = rest_of_halves(part[0], part[1]), high_rest = rest_of_halves(part[2], part[3]);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      uint32_t word[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) word[j] = word_of(rows.value[j][s / 4], s % 4);
      const uint32_t a[4] = {__byte_perm(word[0], word[1], 0x5410), __byte_perm(word[0], word[1], 0x7632),
                             __byte_perm(word[2], word[3], 0x5410), __byte_perm(word[2], word[3], 0x7632)};
      mma_halves(sum[s], a, low, high);
      mma_halves(sum[s], a, low_rest, high_rest);
    }
  }
  template <typename Sums>
  __device__ void store(Sums& to, int warp, int heads, int lane) const {
    float all = weight + __shfl_xor_sync(0xffffffffu, weight, 1);
    all += __shfl_xor_sync(0xffffffffu, all, 2);
    if (lane % 4 == 0 && lane / 4 < heads) to.largest[warp][lane / 4] = largest, to.weight[warp][lane / 4] = all;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int head = lane % 4 * 2 + i;
      if (head >= heads) continue;
#pragma unroll
      for (int s = 0; s < kSteps; ++s)
        reinterpret_cast<float2*>(to.sum[warp][head])[kDim / 16 * (lane / 4) + s] = make_float2(sum[s][i], sum[s][i + 2]);
    }
  }
};

template <int kDim>
__global__ void __launch_bounds__(kWarps * 32, 3) attend_halves_kernel(const __grid_constant__ AttendArgsDevice args) {
  __shared__ float turned[(kHeads + 2) * kDim];
  __shared__ WarpSums<kWarps, kHeads, kDim> sums;
  launch_dependents();
  if (!args.is_settled) dependency_wait();
  const AttendBlock<kHeads, kLeastShare, kTile> block(args);
  const KvArgs& kv = args.kv;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int dim = kv.head_dim, first = block.from + warp * kTile, newest = block.newest;
  if (block.from >= block.end) return;                                 // at once, which makes room for the next kernel; the others wait
  const int stored = args.rotates ? min(block.to, newest) : block.to;  // before it, positions are in the store already
  HalfRows<kDim> rows;
  // What earlier passes have stored comes while the kernel before ends.
  rows.load_keys(kv, block.pages, block.kv_head, first, stored, lane);
  rows.load_values(kv, block.pages, block.kv_head, first, stored, lane);
  const float* queries = args.query + block.token * args.stride + block.first_head * dim;
  if (args.rotates) {
    const Turn turn(args.rotate, newest, static_cast<int>(threadIdx.x) % (kDim / 2));
    if (args.is_settled) dependency_wait();
    rotate_heads<kWarps, kHeads, kDim / 2>(args, block.first_head, block.heads, block.kv_head, turn, turned);
    queries = turned;
    __syncthreads();
    if (block.to == block.end) {
      const int64_t row = row_at(kv, block.pages, block.kv_head, newest);
      if (warp < 2) store_row(kv, turned + (kHeads + warp) * dim, (warp == 0 ? kv.key : kv.value) + row, lane);
    }
  }

  HalfHeads<kDim> heads;
  heads.load(queries, block.heads, dim, args.scale, lane);
#pragma unroll 1
  for (int p = first; p < block.to; p += kWarps * kTile) {
    const int next = p + kWarps * kTile;
    if (stored < block.to && newest - p < kTile)
      rows.take_newest(turned + kHeads * dim, turned + (kHeads + 1) * dim, dim, newest - p, lane);
    float score[4];
    heads.multiply_keys(rows, p, block.begin, block.to, args.softcap, lane, score);
    if (next < block.to) rows.load_keys(kv, block.pages, block.kv_head, next, stored, lane);
    heads.softmax(score, lane);
    heads.multiply_values(rows, score);
    if (next < block.to) rows.load_values(kv, block.pages, block.kv_head, next, stored, lane);
  }
  heads.store(sums, warp, block.heads, lane);
  finish_heads<kWarps>(args, block, sums, turned);
}

template <int kDim>
void start(const AttendArgsDevice& args, cudaStream_t stream) {
  launch_heads(&attend_halves_kernel<kDim>, args, kHeads, kWarps * 32, stream);
}

}  // namespace

bool attends_halves(const AttendArgsDevice& args) { return args.kv.type == 1 && args.kv.head_dim % 8 == 0 && args.kv.head_dim <= 128; }

void attend_halves(const AttendArgsDevice& args, cudaStream_t stream) {
  if (args.kv.head_dim <= 64) start<64>(args, stream);
  else start<128>(args, stream);
}

}  // namespace tq::cuda
