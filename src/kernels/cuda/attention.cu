// Causal attention over stored keys and values: the positions of a token are split among thread blocks; the last to come merges them.
#include <cuda_fp16.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kv_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kUnroll = 4;                         // positions of a warp at a time
constexpr float kNothing = -1e30f;                 // the largest score of no positions
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

// Sine and cosine of a position times the frequency of a thread's pair of elements, times the magnitude.
struct Turn {
  float sine = 0.0f, cosine = 0.0f;

  __device__ Turn(const RotateArgs& rotate, int position, int i) {
    if (i >= rotate.half) return;
    sincosf(static_cast<float>(position) * rotate.inv_freq[i], &sine, &cosine);
    sine *= rotate.magnitude, cosine *= rotate.magnitude;
  }
};

// The queries of a thread block and the newest position's key, turned, and its value, into shared memory: [kHeads + 2][dim], the key
// and the value last. Everything is under way at a time. turn: of element threadIdx.x % kWidth.
template <int kHeads, int kWidth>
__device__ void rotate_heads(const AttendArgsDevice& args, int first_head, int heads, int kv_head, const Turn& turn, float* turned) {
  constexpr int kSets = kWarps * 32 / kWidth, kEach = (kHeads + kSets) / kSets;
  const RotateArgs& rotate = args.rotate;
  const int dim = args.kv.head_dim, thread = static_cast<int>(threadIdx.x), i = thread % kWidth, set = thread / kWidth;
  const int64_t token = blockIdx.z;
  const float* query = args.query + token * args.stride + first_head * dim;
  const float* key = rotate.key + token * rotate.key_stride + kv_head * dim;
  const float* value = rotate.value + token * rotate.key_stride + kv_head * dim;
  float low[kEach], high[kEach];
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int h = set + k * kSets;
    const bool is_there = i < rotate.half && (h < heads || h == kHeads);
    const float* from = (h == kHeads ? key : query + h * dim) + i;
    low[k] = is_there ? __ldcg(from) : 0.0f, high[k] = is_there ? __ldcg(from + rotate.half) : 0.0f;
  }
  const float own = thread < dim ? __ldcg(value + thread) : 0.0f;
  for (int j = 2 * rotate.half + thread; j < dim; j += kWarps * 32) {
    for (int h = 0; h < heads; ++h) turned[h * dim + j] = query[h * dim + j];
    turned[kHeads * dim + j] = key[j];
  }
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int h = set + k * kSets;
    if (h > kHeads || i >= rotate.half) continue;
    turned[h * dim + i] = low[k] * turn.cosine - high[k] * turn.sine;
    turned[h * dim + i + rotate.half] = high[k] * turn.cosine + low[k] * turn.sine;
  }
  if (thread < dim) turned[(kHeads + 1) * dim + thread] = own;
}

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
    return kType == 1 ? __half22float2(__floats2half2_rn(pair[0], pair[1])) : make_float2(pair[0], pair[1]);
  }
};

// The partial results of a thread block's heads put together: a warp a head.
__device__ void merge_heads(const AttendArgsDevice& args, int64_t first_row, int heads, int parts) {
  constexpr int kFlight = 8;
  const int dim = args.kv.head_dim, lane = static_cast<int>(threadIdx.x) % 32;
  for (int h = static_cast<int>(threadIdx.x) / 32; h < heads; h += kWarps) {
    const int64_t row = first_row + h;
    const float* from = args.partial + row * args.splits * (dim + 2);
    const bool has_part = lane < parts;
    const float own = has_part ? __ldcg(from + lane * (dim + 2) + dim) : kNothing;
    const float own_weight = has_part ? __ldcg(from + lane * (dim + 2) + dim + 1) : 0.0f;
    float factor = __expf(own - warp_max(own));
    factor /= warp_sum(own_weight * factor);
    for (int i = lane; i - lane < dim; i += 32) {
      const int at = min(i, dim - 1);
      float sum = 0.0f;
      for (int s = 0; s < parts; s += kFlight) {
        float value[kFlight];
#pragma unroll
        for (int u = 0; u < kFlight; ++u) value[u] = s + u < parts ? __ldcg(from + (s + u) * (dim + 2) + at) : 0.0f;
#pragma unroll
        for (int u = 0; u < kFlight; ++u) sum += value[u] * __shfl_sync(0xffffffffu, factor, (s + u) % 32);
      }
      if (i < dim) args.output[row * dim + i] = sum;
    }
  }
}

// grid (kv heads * chunks of a group's heads, splits, tokens)
template <int kType, int kPairs, int kHeads>
__global__ void __launch_bounds__(kWarps * 32, kPairs <= 2 ? 2 : 1) attend_kernel(const __grid_constant__ AttendArgsDevice args) {
  constexpr int kWidth = 32 * kPairs;
  __shared__ float turned[(kHeads + 2) * 64 * kPairs];
  launch_dependents();
  if (!args.is_settled) dependency_wait();
  const KvArgs& kv = args.kv;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, token = static_cast<int>(blockIdx.z);
  const int group = args.heads / kv.kv_heads, chunks = (group + kHeads - 1) / kHeads;
  const int kv_head = static_cast<int>(blockIdx.x) / chunks, chunk = static_cast<int>(blockIdx.x) % chunks;
  const int first_head = kv_head * group + chunk * kHeads, heads = min(kHeads, group - chunk * kHeads), dim = kv.head_dim;
  const int32_t* pages = args.place[token].pages;
  const int newest = static_cast<int>(args.place[token].position), end = newest + 1,
            begin = args.window > 0 ? max(0, end - args.window) : 0;
  const int share = max(kLeastShare, (end - begin + args.splits - 1) / args.splits), parts = (end - begin + share - 1) / share;
  const int from = begin + static_cast<int>(blockIdx.y) * share, to = min(end, from + share);
  if (from >= end) {
    if (args.is_settled) dependency_wait();
    return;
  }
  const int stored = args.rotates ? min(to, newest) : to;  // before it, positions are in the store already
  Rows<kType, kPairs> rows;
  const float* queries = args.query + token * args.stride + first_head * dim;
  if (args.rotates) {
    // What earlier passes have stored comes while the kernel before ends.
    rows.load(kv, pages, kv_head, from + warp, stored, lane);
    const Turn turn(args.rotate, newest, static_cast<int>(threadIdx.x) % kWidth);
    if (args.is_settled) dependency_wait();
    rotate_heads<kHeads, kWidth>(args, first_head, heads, kv_head, turn, turned);
    queries = turned;
    __syncthreads();
    if (to == end) {
      const int64_t row = row_at(kv, pages, kv_head, newest);
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
      const bool is_there = h < heads && 2 * pair < dim;
      const float* at = queries + (is_there ? h * dim + 2 * pair : 0);
      query[h][i] = is_there ? make_float2(at[0], at[1]) : make_float2(0.0f, 0.0f);
    }
  Running<kPairs, kHeads> running;
  for (int p = from + warp; p < to; p += kWarps * kUnroll) {
    if (!args.rotates || p != from + warp) rows.load(kv, pages, kv_head, p, stored, lane);
    if (args.rotates && to == end) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (p + u * kWarps != newest) continue;
        if (kType == 2) rows.load(kv, u, true, row_at(kv, pages, kv_head, newest), lane);
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

  __shared__ float largest_of[kWarps][kHeads], weight_of[kWarps][kHeads];
  __shared__ float2 sum_of[kWarps][kHeads][kPairs * 32];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (lane == 0) largest_of[warp][h] = running.largest[h], weight_of[warp][h] = running.weight[h];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) sum_of[warp][h][lane + 32 * i] = running.sum[h][i];
  }
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x); at < heads * dim; at += kWarps * 32) {
    const int h = at / dim, i = at % dim;
    float top = kNothing, weight = 0.0f, sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, largest_of[w][h]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float factor = __expf(largest_of[w][h] - top);
      weight += weight_of[w][h] * factor, sum += reinterpret_cast<const float*>(sum_of[w][h])[i] * factor;
    }
    const int64_t row = static_cast<int64_t>(token) * args.heads + first_head + h;
    if (parts == 1) {
      args.output[row * dim + i] = sum / weight;
    } else {
      float* out = args.partial + (row * args.splits + blockIdx.y) * (dim + 2);
      out[i] = sum;
      if (i == 0) out[dim] = top, out[dim + 1] = weight;
    }
  }
  if (parts == 1) return;
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* arrived = args.arrived + token * gridDim.x + blockIdx.x;
    is_last = add_acquire_release(arrived, 1) + 1 == static_cast<uint32_t>(parts);
    if (is_last) *arrived = 0;
  }
  __syncthreads();
  if (is_last) merge_heads(args, static_cast<int64_t>(token) * args.heads + first_head, heads, parts);
}

template <int kType, int kPairs>
void attend_pairs(const AttendArgsDevice& args, cudaStream_t stream) {
  const int group = args.heads / args.kv.kv_heads;
  const auto start = [&](auto kernel, int heads) {
    const auto blocks = static_cast<unsigned>(args.kv.kv_heads * ((group + heads - 1) / heads));
    launch(kernel, dim3(blocks, static_cast<unsigned>(args.splits), static_cast<unsigned>(args.tokens)), kWarps * 32, 0, stream, args);
  };
  if (group == 1) start(&attend_kernel<kType, kPairs, 1>, 1);
  else if (group == 2) start(&attend_kernel<kType, kPairs, 2>, 2);
  else start(&attend_kernel<kType, kPairs, 4>, 4);
}

template <int kType>
void attend_type(const AttendArgsDevice& args, cudaStream_t stream) {
  if (args.kv.head_dim <= 64) attend_pairs<kType, 1>(args, stream);
  else if (args.kv.head_dim <= 128) attend_pairs<kType, 2>(args, stream);
  else attend_pairs<kType, 4>(args, stream);
}

}  // namespace

void attend(const AttendArgsDevice& args, cudaStream_t stream) {
  if (args.kv.type == 0) attend_type<0>(args, stream);
  else if (args.kv.type == 1) attend_type<1>(args, stream);
  else attend_type<2>(args, stream);
}

}  // namespace tq::cuda
