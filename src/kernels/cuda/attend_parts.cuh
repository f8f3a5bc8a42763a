// What the kernels for few rows share: which positions and heads fall to a thread block, the turning of its queries, the merging of its
// results with others'.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kv_rows.cuh"

namespace tq::cuda {

constexpr float kNothing = -1e30f;  // the largest score of no positions

// grid (kv heads * chunks of a group's heads, splits, tokens)
template <int kHeads, int kLeastShare, int kTile>
struct AttendBlock {
  int token, kv_head, first_head, heads;
  int newest, begin, end;  // positions of the token
  int parts, from, to;     // thread blocks that share them; those of this one, `from` a multiple of kTile
  const int32_t* pages;

  __device__ explicit AttendBlock(const AttendArgsDevice& args) : token(static_cast<int>(blockIdx.z)) {
    const int group = args.heads / args.kv.kv_heads, chunks = (group + kHeads - 1) / kHeads;
    const int chunk = static_cast<int>(blockIdx.x) % chunks;
    kv_head = static_cast<int>(blockIdx.x) / chunks;
    first_head = kv_head * group + chunk * kHeads, heads = min(kHeads, group - chunk * kHeads);
    pages = args.place[token].pages;
    newest = static_cast<int>(args.place[token].position), end = newest + 1;
    begin = args.window > 0 ? max(0, end - args.window) : 0;
    const int first = begin / kTile * kTile, share = max(kLeastShare, whole((end - first + args.splits - 1) / args.splits));
    parts = (end - first + share - 1) / share;
    from = first + static_cast<int>(blockIdx.y) * share, to = min(end, from + share);
  }
  static __device__ int whole(int positions) { return (positions + kTile - 1) / kTile * kTile; }
  __device__ int64_t row(const AttendArgsDevice& args) const { return static_cast<int64_t>(token) * args.heads + first_head; }
};

// What the warps of a thread block have of its heads, in shared memory.
template <int kWarps, int kHeads, int kDim>
struct WarpSums {
  alignas(16) float sum[kWarps][kHeads][kDim];  // written two at a time
  float largest[kWarps][kHeads], weight[kWarps][kHeads];
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
template <int kWarps, int kHeads, int kWidth>
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

// The partial results of a thread block's heads put together: a warp a head.
template <int kWarps>
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

// The warps' sums put together, and with those of the other thread blocks of the positions; the last to come stores.
template <int kWarps, typename Block, typename Sums>
__device__ void finish_heads(const AttendArgsDevice& args, const Block& block, const Sums& of) {
  const int dim = args.kv.head_dim;
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x); at < block.heads * dim; at += kWarps * 32) {
    const int h = at / dim, i = at % dim;
    float top = kNothing, weight = 0.0f, sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, of.largest[w][h]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float factor = __expf(of.largest[w][h] - top);
      weight += of.weight[w][h] * factor, sum += of.sum[w][h][i] * factor;
    }
    const int64_t row = block.row(args) + h;
    if (block.parts == 1) {
      args.output[row * dim + i] = sum / weight;
    } else {
      float* out = args.partial + (row * args.splits + blockIdx.y) * (dim + 2);
      out[i] = sum;
      if (i == 0) out[dim] = top, out[dim + 1] = weight;
    }
  }
  if (block.parts == 1) return;
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* arrived = args.arrived + block.token * gridDim.x + blockIdx.x;
    is_last = add_acquire_release(arrived, 1) + 1 == static_cast<uint32_t>(block.parts);
    if (is_last) *arrived = 0;
  }
  __syncthreads();
  if (is_last) merge_heads<kWarps>(args, block.row(args), block.heads, block.parts);
}

}  // namespace tq::cuda
