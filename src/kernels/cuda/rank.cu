// The largest values of rows, in order: a thread block a row.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/order.cuh"

namespace tq::cuda {
namespace {

constexpr int kThreads = 1024, kMostKept = 2048, kFlight = 8;

// Calls each(value, index) for what a thread has of a row: which values are a thread's is always the same.
template <typename Each>
__device__ void of_thread(const float* row, int width, const Each& each) {
  const int thread = static_cast<int>(threadIdx.x), vectors = reinterpret_cast<uintptr_t>(row) % sizeof(float4) == 0 ? width / 4 : 0;
  for (int first = thread; first < vectors; first += kFlight * kThreads) {
    float4 value[kFlight];
#pragma unroll
    for (int u = 0; u < kFlight; ++u)
      if (first + u * kThreads < vectors) value[u] = __ldcg(reinterpret_cast<const float4*>(row) + first + u * kThreads);
#pragma unroll
    for (int u = 0; u < kFlight; ++u) {
      const int at = first + u * kThreads;
      if (at < vectors) each(value[u].x, 4 * at), each(value[u].y, 4 * at + 1), each(value[u].z, 4 * at + 2), each(value[u].w, 4 * at + 3);
    }
  }
  for (int i = 4 * vectors + thread; i < width; i += kThreads) each(__ldcg(row + i), i);
}

// Descending, in shared memory; count: a power of two up to twice the threads. Every thread sees the result.
template <typename T>
__device__ void sort(T* values, int count) {
  for (int size = 2; size <= count; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      const int pair = static_cast<int>(threadIdx.x), i = 2 * step * (pair / step) + pair % step, j = i + step;
      if (pair < count / 2) {
        const T a = values[i], b = values[j];
        if ((a < b) == ((i & size) == 0)) values[i] = b, values[j] = a;
      }
      __syncthreads();
    }
}

// The count-th largest of the threads' largest values is a bound that at least `count` values reach, and few more. Those are sorted.
__global__ void __launch_bounds__(kThreads) rank_kernel(const RankJob args) {
  __shared__ unsigned long long kept[kMostKept];
  __shared__ uint32_t largest[kThreads];
  __shared__ int kept_count, has_other;
  launch_dependents();
  const float* row = args.values + blockIdx.x * static_cast<int64_t>(args.width);
  if (threadIdx.x == 0) kept_count = 0, has_other = 0;
  dependency_wait();
  uint32_t own = 0;
  bool is_finite = true;
  of_thread(row, args.width, [&](float value, int) {
    own = max(own, order_of(value));
    is_finite &= value < INFINITY;
  });
  largest[threadIdx.x] = own;
  __syncthreads();
  if (!is_finite) has_other = 1;
  sort(largest, kThreads);
  const uint32_t bound = largest[args.count - 1];
  int32_t* state = args.state + blockIdx.x;
  if (has_other) {
    if (threadIdx.x == 0) *state = kRankNotFinite;
    return;
  }
  of_thread(row, args.width, [&](float value, int index) {
    const uint32_t order = order_of(value);
    if (order < bound) return;
    const int at = atomicAdd(&kept_count, 1);
    if (at < kMostKept) kept[at] = static_cast<unsigned long long>(order) << 32 | ~static_cast<uint32_t>(index);
  });
  __syncthreads();
  if (threadIdx.x == 0) *state = kept_count > kMostKept ? kRankUnknown : kRankDone;
  if (kept_count > kMostKept) return;
  int all = 2;
  while (all < kept_count) all *= 2;
  for (int i = kept_count + static_cast<int>(threadIdx.x); i < all; i += kThreads) kept[i] = 0;
  __syncthreads();
  sort(kept, all);
  RankOut* out = args.ranked + blockIdx.x * static_cast<int64_t>(args.count);
  for (int i = static_cast<int>(threadIdx.x); i < args.count; i += kThreads)
    out[i] = {value_of(static_cast<uint32_t>(kept[i] >> 32)), static_cast<int32_t>(~static_cast<uint32_t>(kept[i]))};
}

static_assert(kMostRankCount <= kThreads);

}  // namespace

void rank(const RankJob& args, int rows, cudaStream_t stream) {
  launch(&rank_kernel, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, args);
}

}  // namespace tq::cuda
