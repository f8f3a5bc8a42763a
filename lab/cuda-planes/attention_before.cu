// Causal attention over stored keys and values: the positions of a token are split among thread blocks; the last to come merges them.
#include <cuda_fp16.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kv_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace tq::cuda::before {
namespace {

constexpr int kWarps = 4;
constexpr int kUnroll = 4;                     // positions of a warp at a time
constexpr float kNothing = -1e30f;             // the largest score of no positions
constexpr int kLeastShare = kWarps * kUnroll;  // positions of a thread block, at least

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

// The queries of a thread block turned to their position, into shared memory; where it is the newest's, also its key turned and stored, and
// its value.
__device__ void rotate_heads(const AttendArgsDevice& args, int first_head, int heads, int kv_head, bool is_newest, float* queries,
                             float* key) {
  const RotateArgs& rotate = args.rotate;
  const int dim = args.kv.head_dim, thread = static_cast<int>(threadIdx.x), threads = kWarps * 32, token = static_cast<int>(blockIdx.z);
  const auto position = static_cast<int>(args.place[token].position);
  const float* query = args.query + token * args.stride;
  const float* own = rotate.key + token * rotate.key_stride + kv_head * dim;
  const float* own_value = rotate.value + token * rotate.key_stride + kv_head * dim;
  for (int i = thread; i < dim; i += threads) {
    if (i < rotate.half) {
      float turn[2];
      sincosf(static_cast<float>(position) * rotate.inv_freq[i], &turn[0], &turn[1]);
      const float sine = turn[0] * rotate.magnitude, cosine = turn[1] * rotate.magnitude;
      for (int h = 0; h <= heads; ++h) {
        const float* from = h < heads ? query + (first_head + h) * dim : own;
        float* to = h < heads ? queries + h * dim : key;
        const float low = from[i], high = from[i + rotate.half];
        to[i] = low * cosine - high * sine;
        to[i + rotate.half] = high * cosine + low * sine;
      }
    } else if (i >= 2 * rotate.half) {
      for (int h = 0; h < heads; ++h) queries[h * dim + i] = query[(first_head + h) * dim + i];
      key[i] = own[i];
    }
  }
  __syncthreads();
  if (!is_newest) return;
  const int64_t row = row_at(args.kv, args.place[token].pages, kv_head, position);
  if (thread < 32) store_row(args.kv, key, args.kv.key + row, thread);
  else if (thread < 64) store_row(args.kv, own_value, args.kv.value + row, thread - 32);
  __syncthreads();
}

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
__global__ void __launch_bounds__(kWarps * 32) attend_kernel(const __grid_constant__ AttendArgsDevice args) {
  __shared__ float turned[(kHeads + 1) * 64 * kPairs];
  launch_dependents();
  dependency_wait();
  const KvArgs& kv = args.kv;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, token = static_cast<int>(blockIdx.z);
  const int group = args.heads / kv.kv_heads, chunks = (group + kHeads - 1) / kHeads;
  const int kv_head = static_cast<int>(blockIdx.x) / chunks, chunk = static_cast<int>(blockIdx.x) % chunks;
  const int first_head = kv_head * group + chunk * kHeads, heads = min(kHeads, group - chunk * kHeads), dim = kv.head_dim;
  const int32_t* pages = args.place[token].pages;
  const int end = static_cast<int>(args.place[token].position) + 1, begin = args.window > 0 ? max(0, end - args.window) : 0;
  const int share = max(kLeastShare, (end - begin + args.splits - 1) / args.splits), parts = (end - begin + share - 1) / share;
  const int from = begin + static_cast<int>(blockIdx.y) * share, to = min(end, from + share);
  if (from >= end) return;
  const float* queries = args.query + token * args.stride + first_head * dim;
  if (args.rotates) {
    rotate_heads(args, first_head, heads, kv_head, to == end, turned, turned + kHeads * dim);
    queries = turned;
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
    float2 key[kUnroll][kPairs], value[kUnroll][kPairs];
    float key_scale[kUnroll], value_scale[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = p + u * kWarps;
      const int64_t row = row_at(kv, pages, kv_head, min(at, to - 1));
      const char* key_row = kv.key + row;
      const char* value_row = kv.value + row;
      key_scale[u] = kType == 2 ? *reinterpret_cast<const float*>(key_row + kv.scale_at) : 1.0f;
      value_scale[u] = kType == 2 ? *reinterpret_cast<const float*>(value_row + kv.scale_at) : 1.0f;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int pair = lane + 32 * i;
        key[u][i] = 2 * pair < dim ? load_pair<kType>(key_row, pair) : make_float2(0.0f, 0.0f);
        value[u][i] = 2 * pair < dim ? load_pair<kType>(value_row, pair) : make_float2(0.0f, 0.0f);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int i = 0; i < kPairs; ++i) value[u][i].x *= value_scale[u], value[u][i].y *= value_scale[u];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float score[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < kPairs; ++i) dot += query[h][i].x * key[u][i].x + query[h][i].y * key[u][i].y;
        dot = warp_sum(dot) * key_scale[u] * args.scale;
        if (args.softcap > 0.0f) dot = args.softcap * tanhf(dot / args.softcap);
        score[u] = p + u * kWarps < to ? dot : kNothing;
      }
      running.add(h, score, value);
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
  for (int h = 0; h < heads; ++h) {
    float top = kNothing, weight = 0.0f;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, largest_of[w][h]);
    for (int w = 0; w < kWarps; ++w) weight += weight_of[w][h] * __expf(largest_of[w][h] - top);
    for (int i = static_cast<int>(threadIdx.x); i < dim; i += kWarps * 32) {
      float sum = 0.0f;
      for (int w = 0; w < kWarps; ++w) sum += reinterpret_cast<const float*>(sum_of[w][h])[i] * __expf(largest_of[w][h] - top);
      const int64_t row = static_cast<int64_t>(token) * args.heads + first_head + h;
      if (parts == 1) {
        args.output[row * dim + i] = sum / weight;
      } else {
        float* out = args.partial + (row * args.splits + blockIdx.y) * (dim + 2);
        out[i] = sum;
        if (i == 0) out[dim] = top, out[dim + 1] = weight;
      }
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

}  // namespace tq::cuda::before
