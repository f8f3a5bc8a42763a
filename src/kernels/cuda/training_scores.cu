// The softmax of a tile of attention and its derivative, and the rows of its heads gathered: a thread block a query of a head.
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ float score_of(const ScoreTile& tile, float product) {
  const float score = product * tile.scale;
  return tile.softcap > 0.0f ? tile.softcap * tanhf(score / tile.softcap) : score;
}

// grid (count, heads)
__global__ void __launch_bounds__(kThreads) differentiate_kernel(const ScoreTile tile) {
  launch_dependents();
  dependency_wait();
  const int kv_head = static_cast<int>(blockIdx.y) / tile.group, member = static_cast<int>(blockIdx.y) % tile.group;
  const int64_t row = ((static_cast<int64_t>(kv_head) * tile.count + blockIdx.x) * tile.group + member) * tile.width;
  float *weight = tile.weight + row, *slope = tile.slope + row;
  const int64_t token = tile.first + blockIdx.x;
  const int last = static_cast<int>(token - tile.begin), from = tile.window > 0 ? max(0, last + 1 - tile.window) : 0;
  float own = -INFINITY;
  for (int j = from + static_cast<int>(threadIdx.x); j <= last; j += kThreads) own = fmaxf(own, score_of(tile, weight[j]));
  const float largest = block_max<kThreads>(own);
  double sum = 0, along = 0;
  for (int j = from + static_cast<int>(threadIdx.x); j <= last; j += kThreads) {
    const float e = expf(score_of(tile, weight[j]) - largest);
    sum += e, along += static_cast<double>(e) * slope[j];
  }
  sum = block_sum<kThreads>(sum), along = block_sum<kThreads>(along);
  const auto inverse = static_cast<float>(1.0 / sum), mean = static_cast<float>(along / sum);
  for (int j = static_cast<int>(threadIdx.x); j < tile.width; j += kThreads) {
    const bool is_seen = j >= from && j <= last;
    const float score = is_seen ? score_of(tile, weight[j]) : 0.0f, bent = tile.softcap > 0.0f ? score / tile.softcap : 0.0f;
    const float p = is_seen ? expf(score - largest) * inverse : 0.0f;
    slope[j] = is_seen ? p * (slope[j] - mean) * (1.0f - bent * bent) : 0.0f;
    weight[j] = p;
  }
}

// grid (count, heads)
template <bool kGathers>
__global__ void __launch_bounds__(kThreads) move_heads_kernel(const HeadRows rows, const float* from, float* to) {
  launch_dependents();
  dependency_wait();
  const int kv_head = static_cast<int>(blockIdx.y) / rows.group, member = static_cast<int>(blockIdx.y) % rows.group;
  const int64_t apart = blockIdx.x * rows.stride + static_cast<int64_t>(blockIdx.y) * rows.dim;
  const int64_t gathered = ((static_cast<int64_t>(kv_head) * rows.count + blockIdx.x) * rows.group + member) * rows.dim;
  for (int i = static_cast<int>(threadIdx.x); i < rows.dim; i += kThreads) {
    if constexpr (kGathers) to[gathered + i] = from[apart + i];
    else to[apart + i] = from[gathered + i];
  }
}

dim3 head_grid(const HeadRows& rows) { return dim3(static_cast<unsigned>(rows.count), static_cast<unsigned>(rows.kv_heads * rows.group)); }

}  // namespace

void gather_heads(const HeadRows& rows, const float* apart, float* gathered, cudaStream_t stream) {
  launch(&move_heads_kernel<true>, head_grid(rows), kThreads, 0, stream, rows, apart, gathered);
}
void scatter_heads(const HeadRows& rows, const float* gathered, float* apart, cudaStream_t stream) {
  launch(&move_heads_kernel<false>, head_grid(rows), kThreads, 0, stream, rows, gathered, apart);
}
void differentiate_scores(const ScoreTile& tile, cudaStream_t stream) {
  launch(&differentiate_kernel, dim3(static_cast<unsigned>(tile.count), static_cast<unsigned>(tile.heads)), kThreads, 0, stream, tile);
}

}  // namespace tq::cuda
