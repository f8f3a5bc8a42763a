#include <cuda_fp16.h>

#include "kernels/cuda/expect.h"
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/objective_ops.h"

namespace tq::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kGroup = 256;  // columns that a warp rotates at a time, eight a lane
constexpr int kTile = 32;    // rows of a thread block, edge of a square's tile

unsigned blocks_for(int64_t count, int64_t each = kThreads) { return static_cast<unsigned>((count + each - 1) / each); }

// Columns [8 * lane, 8 * lane + 8) of a group of one row, rotated; zeros behind the last column. The butterflies come in ascending order,
// each a sum or difference of two, as on the processor.
struct GroupValues {
  float value[8];

  __device__ void read(const Rotation& rotation, const float* row, int64_t first, int lane) {
    const int64_t begin = first + 8 * lane;
    const uint32_t signs = begin < rotation.columns ? rotation.sign[begin / 8] : 0u;
    if (rotation.columns % 4 == 0 && begin + 8 <= rotation.columns) {
      const auto* vectors = reinterpret_cast<const float4*>(row + begin);
      const float4 low = vectors[0], high = vectors[1];
      value[0] = low.x, value[1] = low.y, value[2] = low.z, value[3] = low.w;
      value[4] = high.x, value[5] = high.y, value[6] = high.z, value[7] = high.w;
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) value[i] = begin + i < rotation.columns ? row[begin + i] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] = signs >> i & 1 ? -value[i] : value[i];
    hadamard_sums(value, rotation.hadamard, lane);
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= rotation.scale;
  }
};

__global__ void rotate_rows_kernel(Rotation rotation, const float* input, int64_t count, float* output) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kGroup;
  for (int i = warp; i < kTile; i += kWarps) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kTile + i;
    if (row >= count) break;
    GroupValues group;
    group.read(rotation, input + row * rotation.columns, first, lane);
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (first + 8 * lane + j < rotation.columns) output[row * rotation.columns + first + 8 * lane + j] = group.value[j];
  }
}

// Through shared memory, so that rows of the output are written together. Column 8 l + j of a group stands at j * 32 + l there.
__global__ void rotate_to_columns_kernel(Rotation rotation, const float* input, int64_t count, float* output, int64_t stride) {
  __shared__ float tile[kGroup][kTile + 1];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kGroup, first_row = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int i = warp; i < kTile; i += kWarps) {
    if (first_row + i >= count) break;
    GroupValues group;
    group.read(rotation, input + (first_row + i) * rotation.columns, first, lane);
#pragma unroll
    for (int j = 0; j < 8; ++j) tile[j * 32 + lane][i] = group.value[j];
  }
  __syncthreads();
  if (first_row + lane >= count) return;
  for (int place = warp; place < kGroup; place += kWarps) {
    const int64_t column = first + 8 * (place % 32) + place / 32;
    if (column < rotation.columns) output[column * stride + first_row + lane] = tile[place][lane];
  }
}

__global__ void row_scales_kernel(const float* columns, int64_t rows, int64_t count, int64_t stride, float* scale) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows) return;
  double sum = 0;
#pragma unroll 8
  for (int64_t k = 0; k < count; ++k) {
    const double w = columns[k * stride + row];
    sum += w * w;
  }
  scale[row] = __half2float(__float2half_rn(static_cast<float>(sqrt(sum / static_cast<double>(count)))));
}

// A thread block has 256 columns of all tokens. Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
__global__ void input_error_kernel(Rotation rotation, const float* input, const float* weight, int64_t tokens, double* sum) {
  constexpr float kRounder = 12582912.0f;
  __shared__ double parts[kWarps][kGroup];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kGroup;
  double own[8] = {};
  for (int64_t token = warp; token < tokens; token += kWarps) {
    GroupValues group;
    group.read(rotation, input + token * rotation.columns, first, lane);
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(group.value[i]));
    for (int distance = 16; distance > 0; distance /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
    if (!(largest > 0.0f)) continue;
    const float scale = largest / 127.0f, inverse = 127.0f / largest, share = weight ? weight[token] : 1.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float rounded = __fsub_rn(__fadd_rn(__fmul_rn(group.value[i], inverse), kRounder), kRounder);
      const float error = group.value[i] - scale * rounded;
      own[i] += static_cast<double>(share * error * error);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) parts[warp][8 * lane + i] = own[i];
  __syncthreads();
  const int64_t column = first + threadIdx.x;
  if (column >= rotation.columns) return;
  double total = 0;
  for (int i = 0; i < kWarps; ++i) total += parts[i][threadIdx.x];
  sum[column] += total;
}

__global__ void symmetrise_kernel(float* matrix, int64_t columns, float factor) {
  __shared__ float tile[kTile][kTile + 1];
  if (blockIdx.x > blockIdx.y) return;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int i = warp; i < kTile; i += kWarps) {
    if (row + i >= columns || column + lane >= columns || column + lane > row + i) continue;
    float& value = matrix[(row + i) * columns + column + lane];
    value *= factor;
    tile[i][lane] = value;
  }
  __syncthreads();
  for (int i = warp; i < kTile; i += kWarps)
    if (column + i < columns && row + lane < columns && column + i < row + lane)
      matrix[(column + i) * columns + row + lane] = tile[lane][i];
}

__global__ void add_to_diagonal_kernel(float* matrix, int64_t columns, float value) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < columns) matrix[i * (columns + 1)] += value;
}

__global__ void copy_diagonal_kernel(const float* matrix, int64_t columns, float* diagonal) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < columns) diagonal[i] = matrix[i * (columns + 1)];
}

dim3 tiles_of(const Rotation& rotation, int64_t count) { return {blocks_for(count, kTile), blocks_for(rotation.columns, kGroup)}; }

}  // namespace

void rotate_rows(const Rotation& rotation, const float* input, int64_t count, float* output, cudaStream_t stream) {
  rotate_rows_kernel<<<tiles_of(rotation, count), kThreads, 0, stream>>>(rotation, input, count, output);
  expect(cudaGetLastError(), "rotation");
}

void rotate_to_columns(const Rotation& rotation, const float* input, int64_t count, float* output, int64_t stride, cudaStream_t stream) {
  rotate_to_columns_kernel<<<tiles_of(rotation, count), kThreads, 0, stream>>>(rotation, input, count, output, stride);
  expect(cudaGetLastError(), "rotation");
}

void row_scales(const float* columns, int64_t rows, int64_t count, int64_t stride, float* scale, cudaStream_t stream) {
  row_scales_kernel<<<blocks_for(rows), kThreads, 0, stream>>>(columns, rows, count, stride, scale);
  expect(cudaGetLastError(), "row scales");
}

void input_error(const Rotation& rotation, const float* input, const float* weight, int64_t tokens, double* sum, cudaStream_t stream) {
  input_error_kernel<<<blocks_for(rotation.columns, kGroup), kThreads, 0, stream>>>(rotation, input, weight, tokens, sum);
  expect(cudaGetLastError(), "errors of inputs");
}

void symmetrise(float* matrix, int64_t columns, float factor, cudaStream_t stream) {
  const unsigned tiles = blocks_for(columns, kTile);
  symmetrise_kernel<<<dim3(tiles, tiles), kThreads, 0, stream>>>(matrix, columns, factor);
  expect(cudaGetLastError(), "a second moment");
}

void add_to_diagonal(float* matrix, int64_t columns, float value, cudaStream_t stream) {
  add_to_diagonal_kernel<<<blocks_for(columns), kThreads, 0, stream>>>(matrix, columns, value);
  expect(cudaGetLastError(), "damping");
}

void copy_diagonal(const float* matrix, int64_t columns, float* diagonal, cudaStream_t stream) {
  copy_diagonal_kernel<<<blocks_for(columns), kThreads, 0, stream>>>(matrix, columns, diagonal);
  expect(cudaGetLastError(), "a diagonal");
}

}  // namespace tq::cuda
