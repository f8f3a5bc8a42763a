// What the kernels for few rows share: which positions and heads fall to a thread block, the turning of its queries, the merging of its
// results with others'.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kv_rows.cuh"
#include "kernels/cuda/launch.cuh"

namespace tq::cuda {

// A thread block has `heads` of a group's queries and a part of the positions; those of neighbouring parts are a cluster.
template <typename Kernel>
void launch_heads(Kernel kernel, const AttendArgsDevice& args, int heads, int threads, cudaStream_t stream) {
  const int group = args.heads / args.kv.kv_heads, splits = (args.splits + args.cluster - 1) / args.cluster * args.cluster;
  const dim3 grid(static_cast<unsigned>(args.kv.kv_heads * ((group + heads - 1) / heads)), static_cast<unsigned>(splits),
                  static_cast<unsigned>(args.tokens));
  launch_clusters(kernel, grid, dim3(1, static_cast<unsigned>(args.cluster)), threads, 0, stream, args);
}

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

// The partial results of a thread block's heads put together: a warp a head. parts: as many as were stored.
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

// Sums of the warps, in `own` of the thread blocks of a cluster, put together; each thread block has as many of the elements.
// own: [heads * dim], then [heads][2]: the largest score and the weight.
template <int kWarps, typename Store>
__device__ void merge_cluster(const float* own, int heads, int dim, int members, int rank, const Store& store) {
  const int all = heads * dim, each = (all + members - 1) / members;
  const uint32_t base = shared_address(own);
  for (int at = rank * each + static_cast<int>(threadIdx.x); at < min(all, (rank + 1) * each); at += kWarps * 32) {
    const int h = at / dim;
    float value[kMostCluster], largest[kMostCluster], part[kMostCluster], top = kNothing;
#pragma unroll
    for (int r = 0; r < kMostCluster; ++r) {
      const int from = min(r, members - 1);
      value[r] = load_cluster(base + 4 * at, from);
      largest[r] = load_cluster(base + 4 * (all + 2 * h), from), part[r] = load_cluster(base + 4 * (all + 2 * h + 1), from);
    }
#pragma unroll
    for (int r = 0; r < kMostCluster; ++r) top = r < members ? fmaxf(top, largest[r]) : top;
    float sum = 0.0f, weight = 0.0f;
#pragma unroll
    for (int r = 0; r < kMostCluster; ++r) {
      const float factor = r < members ? __expf(largest[r] - top) : 0.0f;
      sum += value[r] * factor, weight += part[r] * factor;
    }
    store(h, at % dim, sum, top, weight);
  }
}

// The warps' sums put together, and with those of the other thread blocks of the positions: of a cluster through its shared memory, of
// others through memory, where the last to come stores. own: shared, as merge_cluster has it.
template <int kWarps, typename Block, typename Sums>
__device__ void finish_heads(const AttendArgsDevice& args, const Block& block, const Sums& of, float* own) {
  const int dim = args.kv.head_dim, cluster = args.cluster, unit = static_cast<int>(blockIdx.y) / cluster;
  const int members = min(cluster, block.parts - unit * cluster), units = (block.parts + cluster - 1) / cluster;
  // of the unit's part, or the output itself
  const auto store = [&](int h, int i, float sum, float top, float weight) {
    const int64_t row = block.row(args) + h;
    if (units == 1) {
      args.output[row * dim + i] = sum / weight;
    } else {
      float* out = args.partial + (row * args.splits + unit) * (dim + 2);
      out[i] = sum;
      if (i == 0) out[dim] = top, out[dim + 1] = weight;
    }
  };
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
    if (members == 1) {
      store(h, i, sum, top, weight);
    } else {
      own[at] = sum;
      if (i == 0) own[block.heads * dim + 2 * h] = top, own[block.heads * dim + 2 * h + 1] = weight;
    }
  }
  if (members > 1) {
    cluster_arrive(), cluster_wait();
    merge_cluster<kWarps>(own, block.heads, dim, members, static_cast<int>(blockIdx.y) % cluster, store);
    cluster_arrive(), cluster_wait();  // nobody ends while others read what it has
  }
  if (units == 1) return;
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* arrived = args.arrived + block.token * gridDim.x + blockIdx.x;
    is_last = add_acquire_release(arrived, 1) + 1 == static_cast<uint32_t>(block.parts);
    if (is_last) *arrived = 0;
  }
  __syncthreads();
  if (is_last) merge_heads<kWarps>(args, block.row(args), block.heads, units);
}

}  // namespace tq::cuda
