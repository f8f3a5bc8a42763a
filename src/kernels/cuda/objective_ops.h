// What is done on the device to second moments and weights before a matrix is rounded: rotations that give the bits of codec/grid, sums,
// diagonals.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tq::cuda {

// The rotation of inputs with so many columns.
struct Rotation {
  const uint8_t* sign = nullptr;  // [ceil(C / 8)], the device's
  int64_t columns = 0;
  int hadamard = 1;
  float scale = 1.0f;

  static Rotation of(const uint8_t* sign, int64_t columns);
};

// output[count, C] = the rotated rows of input[count, C]; they must not overlap.
void rotate_rows(const Rotation& rotation, const float* input, int64_t count, float* output, cudaStream_t stream);
// The same column by column: row r's column k goes to output[k * stride + r].
void rotate_to_columns(const Rotation& rotation, const float* input, int64_t count, float* output, int64_t stride, cudaStream_t stream);

// scale[r] = the root mean square of row r as a half. columns: [C, rows] with a stride.
void row_scales(const float* columns, int64_t rows, int64_t count, int64_t stride, float* scale, cudaStream_t stream);

// sum[C] += sum over the tokens of weight_t (x'_tk - its int8 form)^2; weight: [T] or null.
void input_error(const Rotation& rotation, const float* input, const float* weight, int64_t tokens, double* sum, cudaStream_t stream);

// Of a square matrix [C, C]: what is below and on the diagonal, times a factor, above it too.
void symmetrise(float* matrix, int64_t columns, float factor, cudaStream_t stream);
void add_to_diagonal(float* matrix, int64_t columns, float value, cudaStream_t stream);
void copy_diagonal(const float* matrix, int64_t columns, float* diagonal, cudaStream_t stream);

}  // namespace tq::cuda
