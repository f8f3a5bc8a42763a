// Norms, rotary embeddings, the store of keys and values, gated activations, rows by number, and products with 16- and 32-bit floats.
#include <cuda_fp16.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/half_terms.cuh"
#include "kernels/cuda/kv_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/order.cuh"
#include "kernels/cuda/prologue.cuh"

namespace tq::cuda {
namespace {

constexpr int kThreads = 256;

__device__ int64_t global_index() { return blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; }
dim3 grid_for(int64_t count) { return dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)); }

// One thread block a row.
__global__ void norm_kernel(const float* input, const float* weight, float* output, int width, float epsilon, float offset) {
  launch_dependents();
  dependency_wait();
  __shared__ float parts[kThreads / 32];
  const float* in = input + blockIdx.x * static_cast<int64_t>(width);
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += kThreads) sum += in[i] * in[i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0.0f;
  for (const float part : parts) sum += part;
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(width) + epsilon);
  float* out = output + blockIdx.x * static_cast<int64_t>(width);
  for (int i = static_cast<int>(threadIdx.x); i < width; i += kThreads) out[i] = in[i] * factor * (weight[i] + offset);
}

// 4 columns a thread, of a token or a part of it: grid (tokens, parts). Either output, [T, columns], may be null.
__global__ void __launch_bounds__(kThreads) input_kernel(const InputArgs args, float* output, __half* half_output, int columns) {
  launch_dependents();
  dependency_wait();
  const int64_t token = blockIdx.x;
  const float factor = norm_factor<kThreads / 32>(args, columns, token);
  const int step = 4 * kThreads * static_cast<int>(gridDim.y);
  const bool is_whole = columns % 4 == 0;
#pragma unroll 2
  for (int k = 4 * static_cast<int>(blockIdx.y * kThreads + threadIdx.x); k < columns; k += step) {
    alignas(16) float value[4];
    input_values(args, columns, token, k, factor, value);
    if (output && is_whole) {
      *reinterpret_cast<float4*>(output + token * columns + k) = make_float4(value[0], value[1], value[2], value[3]);
    } else if (output) {
      for (int i = 0; i < 4 && k + i < columns; ++i) output[token * columns + k + i] = value[i];
    }
    if (half_output && is_whole) {
      const uint32_t low = bits_of(__halves2half2(to_half(value[0]), to_half(value[1])));
      const uint32_t high = bits_of(__halves2half2(to_half(value[2]), to_half(value[3])));
      *reinterpret_cast<uint2*>(half_output + token * columns + k) = make_uint2(low, high);
    } else if (half_output) {
      for (int i = 0; i < 4 && k + i < columns; ++i) half_output[token * columns + k + i] = to_half(value[i]);
    }
  }
}

__global__ void add_kernel(float* sum, const float* addend, int64_t count) {
  launch_dependents();
  dependency_wait();
  const int64_t i = global_index();
  if (i < count) sum[i] += addend[i];
}

__global__ void add_bias_kernel(float* values, const float* bias, int64_t count, int rows) {
  launch_dependents();
  dependency_wait();
  const int64_t i = global_index();
  if (i < count) values[i] += bias[i % rows];
}

__global__ void softcap_kernel(float* values, int64_t count, float cap) {
  launch_dependents();
  dependency_wait();
  const int64_t i = global_index();
  if (i < count) values[i] = cap * tanhf(values[i] / cap);
}

__global__ void gather_kernel(const float* input, const int32_t* row, float* output, int64_t count, int width) {
  launch_dependents();
  dependency_wait();
  const int64_t i = global_index();
  if (i < count * width) output[i] = input[row[i / width] * static_cast<int64_t>(width) + i % width];
}

// Rows of one call are different, so that no two threads add to one value.
__global__ void scatter_add_kernel(const float* input, const int32_t* row, const float* weight, float* output, int64_t count, int width) {
  launch_dependents();
  dependency_wait();
  const int64_t i = global_index();
  if (i < count * width) output[row[i / width] * static_cast<int64_t>(width) + i % width] += (weight ? weight[i / width] : 1.0f) * input[i];
}

__global__ void embed_dense_kernel(const void* table, DenseType type, const int32_t* tokens, float scale, float* output, int64_t count,
                                   int width) {
  dependency_wait();
  launch_dependents();  // behind the wait: places are known to all that follows
  const int64_t i = global_index();
  if (i >= count * width) return;
  const int64_t at = tokens[i / width] * static_cast<int64_t>(width) + i % width;
  output[i] =
      scale * (type == DenseType::kF16 ? __half2float(static_cast<const __half*>(table)[at]) : static_cast<const float*>(table)[at]);
}

// Whatever follows starts when all of it has been written, so that kernels may read places before they wait.
__global__ void set_places_kernel(const __grid_constant__ PlaceArgs args) {
  dependency_wait();
  const auto row = static_cast<int>(global_index());
  if (row >= args.rows) return;
  int i = args.stretches - 1;
  while (args.stretch[i].first_row > row) --i;
  if (args.token) args.token[row] = args.stretch[i].token;
  args.place[row] = {args.stretch[i].pages, args.stretch[i].first_position + row - args.stretch[i].first_row};
}

// A warp a head: queries first, then keys, then values. grid (ceil(heads + 2 kv_heads, warps), tokens)
__global__ void rotate_store_kernel(const RotateArgs args) {
  launch_dependents();
  dependency_wait();
  const int lane = static_cast<int>(threadIdx.x) % 32, token = static_cast<int>(blockIdx.y);
  int head = static_cast<int>(blockIdx.x) * (kThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  const int queries = args.query ? args.heads : 0, keys = args.key ? args.kv.kv_heads : 0;
  if (head >= queries + 2 * keys) return;
  const Place place = args.place[token];
  const auto position = static_cast<int>(place.position);
  const bool is_query = head < queries, is_key = !is_query && head < queries + keys;
  if (!is_query) head -= queries;
  const int dim = args.kv.head_dim, kv_head = is_key ? head : head - keys;
  float* values = is_query ? args.query + token * args.query_stride + head * dim
                           : (is_key ? args.key : const_cast<float*>(args.value)) + token * args.key_stride + kv_head * dim;
  if (args.rotates && (is_query || is_key)) {
    for (int i = lane; i < args.half; i += 32) {
      rotate_pair(args, position, i, values[i], values[i + args.half], values);
    }
    __syncwarp();
  }
  if (!args.stores || is_query) return;
  char* side = is_key ? args.kv.key : args.kv.value;
  store_row(args.kv, values, side + row_at(args.kv, place.pages, kv_head, position), lane);
}

// A warp two rows, 8 halves a lane and step; sums in float, in an order that is the same for any number of tokens. The first steps' weights
// are under way before the input is waited for.
constexpr int kDenseRows = 2, kDenseAhead = 4;
template <int kTokens, typename Weight>
struct DenseRows {
  static constexpr int kVector = 16 / sizeof(Weight), kStep = 32 * kVector;
  const DenseArgs& args;
  const Weight* weight;
  int64_t row_step;
  float sum[kDenseRows][kTokens] = {};

  __device__ void load(int k, uint4 (&raw)[kDenseRows]) const {
#pragma unroll
    for (int r = 0; r < kDenseRows; ++r) raw[r] = __ldcs(reinterpret_cast<const uint4*>(weight + r * row_step + k));
  }
  __device__ void add(int k, const uint4 (&raw)[kDenseRows]) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float4* x4 = reinterpret_cast<const float4*>(args.input + static_cast<int64_t>(t) * args.columns + k);
      float x[kVector];
#pragma unroll
      for (int i = 0; i < kVector / 4; ++i) *reinterpret_cast<float4*>(x + 4 * i) = x4[i];
#pragma unroll
      for (int r = 0; r < kDenseRows; ++r) {
        const auto* w = reinterpret_cast<const Weight*>(&raw[r]);
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[r][t] = fmaf(static_cast<float>(w[i]), x[i], sum[r][t]);
      }
    }
  }
  __device__ void run(int lane) {
    uint4 ahead[kDenseAhead][kDenseRows];
#pragma unroll
    for (int a = 0; a < kDenseAhead; ++a)
      if (lane * kVector + a * kStep < args.columns) load(lane * kVector + a * kStep, ahead[a]);
    dependency_wait();
#pragma unroll
    for (int a = 0; a < kDenseAhead; ++a)
      if (lane * kVector + a * kStep < args.columns) add(lane * kVector + a * kStep, ahead[a]);
#pragma unroll 4
    for (int k = lane * kVector + kDenseAhead * kStep; k < args.columns; k += kStep) {
      uint4 raw[kDenseRows];
      load(k, raw);
      add(k, raw);
    }
  }
  __device__ void run_unaligned(int lane, int rows) {
    dependency_wait();
    for (int k = lane; k < args.columns; k += 32)
      for (int r = 0; r < rows; ++r)
        for (int t = 0; t < kTokens; ++t)
          sum[r][t] = fmaf(static_cast<float>(weight[r * row_step + k]), args.input[static_cast<int64_t>(t) * args.columns + k], sum[r][t]);
  }
};

template <int kTokens, typename Weight>
__device__ void dense_rows(const DenseArgs& args, const DenseJob& job, int first, int lane) {
  const int rows = min(kDenseRows, job.rows - first);
  DenseRows<kTokens, Weight> product{args, static_cast<const Weight*>(job.weight) + static_cast<int64_t>(first) * args.columns,
                                     rows > 1 ? args.columns : 0};
  if (args.columns % DenseRows<kTokens, Weight>::kVector == 0) product.run(lane);
  else product.run_unaligned(lane, rows);
#pragma unroll
  for (int r = 0; r < kDenseRows; ++r)
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float y = warp_sum(product.sum[r][t]) + (job.bias && r < rows ? job.bias[first + r] : 0.0f);
      if (lane == 0 && r < rows) {
        float* out = job.output + static_cast<int64_t>(t) * job.rows + first + r;
        *out = args.adds ? *out + y : y;
      }
    }
}

template <int kTokens>
__global__ void __launch_bounds__(kThreads) dense_kernel(const __grid_constant__ DenseArgs args) {
  launch_dependents();
  int index = 0;
  while (index + 1 < args.jobs && static_cast<int>(blockIdx.x) >= args.job[index + 1].first_block) ++index;
  const DenseJob& job = args.job[index];
  const int warp = (static_cast<int>(blockIdx.x) - job.first_block) * (kThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  if (warp * kDenseRows >= job.rows) return dependency_wait();
  if (job.type == DenseType::kF16) dense_rows<kTokens, __half>(args, job, warp * kDenseRows, static_cast<int>(threadIdx.x) % 32);
  else dense_rows<kTokens, float>(args, job, warp * kDenseRows, static_cast<int>(threadIdx.x) % 32);
}

__global__ void read_only_kernel(const uint4* words, int64_t count, int32_t* sink) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  uint32_t sum = 0;
  for (int64_t i = global_index(); i + 7 * stride < count; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = __ldcs(words + i + j * stride);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 0x9e3779b9u) *sink = 1;  // so that the reading cannot be left out
}

// The first of the largest. Thread blocks bring theirs together in `state`, zeros before; the last to come leaves zeros and the index.
__global__ void __launch_bounds__(kThreads) argmax_kernel(const float* values, int count, ArgmaxState* state) {
  __shared__ unsigned long long best_of[kThreads / 32];
  launch_dependents();
  dependency_wait();
  unsigned long long best = 0;  // the value's order, then how far from the end: larger wins
  const auto take = [&](float value, int i) {
    if (value == value) best = max(best, static_cast<unsigned long long>(order_of(value)) << 32 | ~static_cast<uint32_t>(i));
  };
  const int vectors = reinterpret_cast<uintptr_t>(values) % sizeof(float4) == 0 ? count / 4 : 0,
            step = static_cast<int>(gridDim.x) * kThreads;
  const auto first = static_cast<int>(global_index());
  for (int i = first; i < vectors; i += step) {
    const float4 four = __ldcg(reinterpret_cast<const float4*>(values) + i);
    take(four.x, 4 * i), take(four.y, 4 * i + 1), take(four.z, 4 * i + 2), take(four.w, 4 * i + 3);
  }
  for (int i = 4 * vectors + first; i < count; i += step) take(__ldcg(values + i), i);
  for (int shift = 16; shift > 0; shift /= 2) best = max(best, __shfl_xor_sync(0xffffffffu, best, shift));
  if (threadIdx.x % 32 == 0) best_of[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (const unsigned long long other : best_of) best = max(best, other);
  atomicMax(&state->best, best);
  if (add_acquire_release(&state->arrived, 1) + 1 < gridDim.x) return;
  best = atomicExch(&state->best, 0ull);
  state->index = best == 0 ? 0 : static_cast<int32_t>(~static_cast<uint32_t>(best)), state->arrived = 0;
}

}  // namespace

void norm(const float* input, const float* weight, float* output, int64_t count, int width, float epsilon, float offset,
          cudaStream_t stream) {
  launch(&norm_kernel, dim3(static_cast<unsigned>(count)), kThreads, 0, stream, input, weight, output, width, epsilon, offset);
}
void prepare_input(const InputArgs& args, float* output, void* half_output, int tokens, int columns, cudaStream_t stream) {
  const int parts = token_parts(tokens, (columns + 4 * kThreads - 1) / (4 * kThreads));
  launch(&input_kernel, dim3(static_cast<unsigned>(tokens), static_cast<unsigned>(parts)), kThreads, 0, stream, args, output,
         static_cast<__half*>(half_output), columns);
}
void add(float* sum, const float* addend, int64_t count, cudaStream_t stream) {
  launch(&add_kernel, grid_for(count), kThreads, 0, stream, sum, addend, count);
}
void add_bias(float* values, const float* bias, int64_t tokens, int rows, cudaStream_t stream) {
  launch(&add_bias_kernel, grid_for(tokens * rows), kThreads, 0, stream, values, bias, tokens * rows, rows);
}
void softcap(float* values, int64_t count, float cap, cudaStream_t stream) {
  launch(&softcap_kernel, grid_for(count), kThreads, 0, stream, values, count, cap);
}
void gather(const float* input, const int32_t* row, float* output, int64_t count, int width, cudaStream_t stream) {
  launch(&gather_kernel, grid_for(count * width), kThreads, 0, stream, input, row, output, count, width);
}
void scatter_add(const float* input, const int32_t* row, const float* weight, float* output, int64_t count, int width,
                 cudaStream_t stream) {
  launch(&scatter_add_kernel, grid_for(count * width), kThreads, 0, stream, input, row, weight, output, count, width);
}
void embed_dense(const void* table, DenseType type, const int32_t* tokens, float scale, float* output, int64_t count, int width,
                 cudaStream_t stream) {
  launch(&embed_dense_kernel, grid_for(count * width), kThreads, 0, stream, table, type, tokens, scale, output, count, width);
}
void set_places(const PlaceArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  launch(&set_places_kernel, dim3(static_cast<unsigned>((args.rows + kThreads - 1) / kThreads)), kThreads, 0, stream, args);
}
void rotate_store(const RotateArgs& args, cudaStream_t stream) {
  if (args.tokens == 0) return;
  const int heads = (args.query ? args.heads : 0) + (args.key ? 2 * args.kv.kv_heads : 0);
  launch(&rotate_store_kernel, dim3(static_cast<unsigned>((heads + 7) / 8), static_cast<unsigned>(args.tokens)), kThreads, 0, stream, args);
}
int dense_blocks(int rows) { return (rows + kDenseRows * (kThreads / 32) - 1) / (kDenseRows * (kThreads / 32)); }
void dense(const DenseArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.blocks));
  switch (args.tokens) {
    case 1: return launch(&dense_kernel<1>, grid, kThreads, 0, stream, args);
    case 2: return launch(&dense_kernel<2>, grid, kThreads, 0, stream, args);
    case 3: return launch(&dense_kernel<3>, grid, kThreads, 0, stream, args);
    default: return launch(&dense_kernel<4>, grid, kThreads, 0, stream, args);
  }
}
void read_only(const void* memory, uint64_t bytes, int32_t* sink, int blocks, cudaStream_t stream) {
  launch(&read_only_kernel, dim3(static_cast<unsigned>(blocks)), kThreads, 0, stream, static_cast<const uint4*>(memory),
         static_cast<int64_t>(bytes / sizeof(uint4)), sink);
}
void argmax(const float* values, int count, ArgmaxState* state, cudaStream_t stream) {
  constexpr int kMostBlocks = 128;
  launch(&argmax_kernel, dim3(std::min(grid_for((count + 3) / 4).x, static_cast<unsigned>(kMostBlocks))), kThreads, 0, stream, values,
         count, state);
}

}  // namespace tq::cuda
