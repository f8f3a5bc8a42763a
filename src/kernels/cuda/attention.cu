// Causal attention over stored keys and values: the positions of a token are split among thread blocks; the last to come merges them.
#include <cuda_fp16.h>

#include "kernels/cuda/attend_parts.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kv_rows.cuh"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kUnroll = 4;                         // positions of a warp at a time
constexpr int kLeastShare = 2 * kWarps * kUnroll;  // positions of a thread block, at least: merging takes longer than two steps

// Values 2 i and 2 i + 1 of a stored row.
template <int kType>
__device__ __forceinline__ float2 load_pair(const char* row, int i) {
  if constexpr (kType == 0) return reinterpret_cast<const float2*>(row)[i];
  if constexpr (kType == 1) return __half22float2(reinterpret_cast<const __half2*>(row)[i]);
  const char2 pair = reinterpret_cast<const char2*>(row)[i];
  return make_float2(static_cast<float>(pair.x), static_cast<float>(pair.y));
}

// One warp's online softmax of kHeads queries: the largest score, the sum of weights, the weighted sum of values.
template <int kPairs, int kHeads>
struct Running {
  float largest[kHeads], weight[kHeads];
  float2 sum[kHeads][kPairs];

  __device__ Running() {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      largest[h] = kNothing, weight[h] = 0.0f;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) sum[h][i] = make_float2(0.0f, 0.0f);
    }
  }
  __device__ void add(int h, const float (&score)[kUnroll], const float2 (&value)[kUnroll][kPairs]) {
    float top = largest[h];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) top = fmaxf(top, score[u]);
    const float shrink = __expf(largest[h] - top);
    largest[h] = top;
    weight[h] *= shrink;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) sum[h][i].x *= shrink, sum[h][i].y *= shrink;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const float part = score[u] <= kNothing ? 0.0f : __expf(score[u] - top);
      weight[h] += part;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) sum[h][i].x += part * value[u][i].x, sum[h][i].y += part * value[u][i].y;
    }
  }
};

// Stored keys and values of kUnroll positions, kWarps apart.
template <int kType, int kPairs>
struct Rows {
  float2 key[kUnroll][kPairs], value[kUnroll][kPairs];
  float key_scale[kUnroll], value_scale[kUnroll];

  // Positions from `first` on; zeros from `end` on.
  __device__ void load(const KvArgs& kv, const int32_t* pages, int head, int first, int end, int lane) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = first + u * kWarps;
      load(kv, u, at < end, at < end ? row_at(kv, pages, head, at) : 0, lane);
    }
  }
  // row: in bytes
  __device__ void load(const KvArgs& kv, int u, bool is_there, int64_t row, int lane) {
    const char* key_row = kv.key + row;
    const char* value_row = kv.value + row;
    key_scale[u] = value_scale[u] = 1.0f;
    if constexpr (kType == 2) {
      key_scale[u] = is_there ? *reinterpret_cast<const float*>(key_row + kv.scale_at) : 0.0f;
      value_scale[u] = is_there ? *reinterpret_cast<const float*>(value_row + kv.scale_at) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int pair = lane + 32 * i;
      const bool has = is_there && 2 * pair < kv.head_dim;
      key[u][i] = has ? load_pair<kType>(key_row, pair) : make_float2(0.0f, 0.0f);
      value[u][i] = has ? load_pair<kType>(value_row, pair) : make_float2(0.0f, 0.0f);
    }
  }
  // As they will be read from the store. key_from, value_from: [dim]
  __device__ void take(int u, const float* key_from, const float* value_from, int dim, int lane) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int pair = lane + 32 * i;
      const bool has = 2 * pair < dim;
      key[u][i] = has ? stored(key_from + 2 * pair) : make_float2(0.0f, 0.0f);
      value[u][i] = has ? stored(value_from + 2 * pair) : make_float2(0.0f, 0.0f);
    }
  }
  static __device__ float2 stored(const float* pair) {
    return kType == 1 ? __half22float2(__halves2half2(to_half(pair[0]), to_half(pair[1]))) : make_float2(pair[0], pair[1]);
  }
};

template <int kType, int kPairs, int kHeads>
__global__ void __launch_bounds__(kWarps * 32, kPairs <= 2 ? 2 : 1) attend_kernel(const __grid_constant__ AttendArgsDevice args) {
  constexpr int kWidth = 32 * kPairs, kDim = 64 * kPairs;
  __shared__ float turned[(kHeads + 2) * kDim];
  __shared__ WarpSums<kWarps, kHeads, kDim> sums;
  launch_dependents();
  if (!args.is_settled) dependency_wait();
  const AttendBlock<kHeads, kLeastShare, 1> block(args);
  const KvArgs& kv = args.kv;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int dim = kv.head_dim, from = block.from, to = block.to, newest = block.newest;
  if (from >= block.end) return;                           // at once, which makes room for the next kernel; the others wait
  const int stored = args.rotates ? min(to, newest) : to;  // before it, positions are in the store already
  Rows<kType, kPairs> rows;
  const float* queries = args.query + block.token * args.stride + block.first_head * dim;
  if (args.rotates) {
    // What earlier passes have stored comes while the kernel before ends.
    rows.load(kv, block.pages, block.kv_head, from + warp, stored, lane);
    const Turn turn(args.rotate, newest, static_cast<int>(threadIdx.x) % kWidth);
    if (args.is_settled) dependency_wait();
    rotate_heads<kWarps, kHeads, kWidth>(args, block.first_head, block.heads, block.kv_head, turn, turned);
    queries = turned;
    __syncthreads();
    if (to == block.end) {
      const int64_t row = row_at(kv, block.pages, block.kv_head, newest);
      if (warp < 2) store_row(kv, turned + (kHeads + warp) * dim, (warp == 0 ? kv.key : kv.value) + row, lane);
      if (kType == 2) __syncthreads();
    }
  }

  float2 query[kHeads][kPairs];
#pragma unroll
  for (int h = 0; h < kHeads; ++h)
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int pair = lane + 32 * i;
      const bool is_there = h < block.heads && 2 * pair < dim;
      const float* at = queries + (is_there ? h * dim + 2 * pair : 0);
      query[h][i] = is_there ? make_float2(at[0], at[1]) : make_float2(0.0f, 0.0f);
    }
  Running<kPairs, kHeads> running;
  for (int p = from + warp; p < to; p += kWarps * kUnroll) {
    if (!args.rotates || p != from + warp) rows.load(kv, block.pages, block.kv_head, p, stored, lane);
    if (args.rotates && to == block.end) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (p + u * kWarps != newest) continue;
        if (kType == 2) rows.load(kv, u, true, row_at(kv, block.pages, block.kv_head, newest), lane);
        else rows.take(u, turned + kHeads * dim, turned + (kHeads + 1) * dim, dim, lane);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int i = 0; i < kPairs; ++i) rows.value[u][i].x *= rows.value_scale[u], rows.value[u][i].y *= rows.value_scale[u];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float score[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < kPairs; ++i) dot += query[h][i].x * rows.key[u][i].x + query[h][i].y * rows.key[u][i].y;
        dot = warp_sum(dot) * rows.key_scale[u] * args.scale;
        if (args.softcap > 0.0f) dot = args.softcap * tanhf(dot / args.softcap);
        score[u] = p + u * kWarps < to ? dot : kNothing;
      }
      running.add(h, score, rows.value);
    }
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (lane == 0) sums.largest[warp][h] = running.largest[h], sums.weight[warp][h] = running.weight[h];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) reinterpret_cast<float2*>(sums.sum[warp][h])[lane + 32 * i] = running.sum[h][i];
  }
  finish_heads<kWarps>(args, block, sums, turned);
}

template <int kType, int kPairs>
void attend_pairs(const AttendArgsDevice& args, cudaStream_t stream) {
  const int group = args.heads / args.kv.kv_heads;
  const auto start = [&](auto kernel, int heads) { launch_heads(kernel, args, heads, kWarps * 32, stream); };
  if (group == 1) start(&attend_kernel<kType, kPairs, 1>, 1);
  else if (group == 2) start(&attend_kernel<kType, kPairs, 2>, 2);
  else start(&attend_kernel<kType, kPairs, kAttendHeads>, kAttendHeads);
}

template <int kType>
void attend_type(const AttendArgsDevice& args, cudaStream_t stream) {
  if (args.kv.head_dim <= 64) attend_pairs<kType, 1>(args, stream);
  else if (args.kv.head_dim <= 128) attend_pairs<kType, 2>(args, stream);
  else attend_pairs<kType, 4>(args, stream);
}

}  // namespace

void attend(const AttendArgsDevice& args, cudaStream_t stream) {
  if (attends_halves(args)) attend_halves(args, stream);
  else if (args.kv.type == 0) attend_type<0>(args, stream);
  else if (args.kv.type == 1) attend_type<1>(args, stream);
  else attend_type<2>(args, stream);
}

}  // namespace tq::cuda
