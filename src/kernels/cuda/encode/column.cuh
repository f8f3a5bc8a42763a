// What happens to a column before and after its Viterbi runs. One thread a row of the stack.
#pragma once

#include "kernels/cuda/encode/trellis.h"

namespace tq::cuda {

// Everything is kept column by column, [C, rows of the stack].
struct ColumnArgs {
  int64_t rows = 0, columns = 0;
  int64_t column = 0, block_begin = 0;      // the column, and the first of its block of columns
  const float* wanted = nullptr;            // [columns of the block, rows] W' and what the columns before the block fed back
  const float* weight = nullptr;            // [C, rows]
  const float* scale = nullptr;             // [rows]
  float clamp = 0.0f;                       // targets beyond it are cut
  const float* const* feedback = nullptr;   // [matrices] U[j, k] / U[k, k] of [C, C], or null
  const double* const* diagonal = nullptr;  // [matrices] U[k, k]^2 of [C]; null: ones
  const uint16_t* matrix = nullptr;         // [rows] number of the row's matrix
  const int32_t* ring_begin = nullptr;      // [matrices]
  const int32_t* ring_rows = nullptr;       // [matrices]
  const uint8_t* rate = nullptr;            // [rows]
  TrellisTables tables;
  float* target = nullptr;      // [rows]
  uint8_t* symbols = nullptr;   // [C, rows]
  float* value = nullptr;       // [C, rows] what the code says, before the scale
  float* error = nullptr;       // [C, rows] W' - s V
  double* row_error = nullptr;  // [rows] e H e of the columns so far
};

// The sum of the taps in the order of the format: the decoder's value to the last bit.
__device__ inline float window_value(uint32_t window, const float* taps, int count) {
  float sum = 0.0f;
  for (int j = 0; j < count; ++j) sum += window >> j & 1 ? taps[j] : -taps[j];
  return sum;
}

// What the column should be: W' and what the columns before it have fed back.
__device__ inline void set_target(const ColumnArgs& args, int64_t row, int64_t column) {
  float wanted = args.wanted[(column - args.block_begin) * args.rows + row];
  const float* feedback = args.feedback[args.matrix[row]];
  if (feedback) {
#pragma unroll 8
    for (int64_t j = args.block_begin; j < column; ++j)
      wanted = fmaf(feedback[j * args.columns + column], args.error[j * args.rows + row], wanted);
  }
  const float scale = args.scale[row];
  const float target = scale > 0.0f ? wanted / scale : 0.0f;
  args.target[row] = fminf(fmaxf(target, -args.clamp), args.clamp);
}

// What its symbols say, and the error that is left.
__device__ inline void set_value(const ColumnArgs& args, int64_t row) {
  const uint8_t* symbols = args.symbols + args.column * args.rows;
  const int matrix = args.matrix[row], begin = args.ring_begin[matrix], rows = args.ring_rows[matrix];
  const int rate = args.rate[row], taps = args.tables.window[rate];
  uint32_t window = 0;
  int bits = 0;
  for (int64_t at = row; bits < taps;) {
    window |= static_cast<uint32_t>(symbols[at]) << bits;
    bits += args.rate[at];
    at = at == begin ? begin + rows - 1 : at - 1;
  }
  const float value = window_value(window, args.tables.taps + rate * kWindowTaps, taps);
  const int64_t at = args.column * args.rows + row;
  args.value[at] = value;
  args.error[at] = args.weight[at] - args.scale[row] * value;
  const double missed = args.scale[row] * (args.target[row] - value);
  const double* diagonal = args.diagonal[matrix];
  args.row_error[row] += (diagonal ? diagonal[args.column] : 1.0) * missed * missed;
}

__global__ void column_target(ColumnArgs args) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row < args.rows) set_target(args, row, args.column);
}

// A row's target depends on its own errors alone, so that the next column's follows at once if it is of the same block.
__global__ void column_value(ColumnArgs args, bool is_last) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= args.rows) return;
  set_value(args, row);
  if (!is_last) set_target(args, row, args.column + 1);
}

// The packed bits of one matrix (docs/format.md, 4.2). One thread a byte.
struct PackArgs {
  int64_t rows = 0, columns = 0;  // of the stack; C
  int64_t ring_begin = 0;
  int64_t plane_rows = 0, padded_plane_rows = 0;
  const int32_t* row_of = nullptr;   // [plane rows] within the matrix
  const uint8_t* bit_of = nullptr;   // [plane rows] the bit's number in the row's symbol
  const uint8_t* symbols = nullptr;  // [C, rows]
  uint8_t* packed = nullptr;
};

__global__ void pack_planes(PackArgs args) {
  const int64_t lines = (args.columns + 3) / 4;
  const int64_t byte = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (byte >= args.padded_plane_rows / 128 * lines * 64) return;
  const int64_t line = byte / 64, first = line / lines * 128 + byte % 64 / 4, column = line % lines * 4 + byte % 4;
  uint32_t bits = 0;
  for (int j = 0; j < 8 && column < args.columns; ++j) {
    const int64_t plane_row = first + 16 * j;
    if (plane_row >= args.plane_rows) break;
    bits |= (args.symbols[column * args.rows + args.ring_begin + args.row_of[plane_row]] >> args.bit_of[plane_row] & 1u) << j;
  }
  args.packed[byte] = static_cast<uint8_t>(bits);
}

// dot[row] = sum over the columns of cost · a · b; cost: [C] or null
__global__ void row_products(const float* a, const float* b, const double* cost, int64_t rows, int64_t columns, double* dot) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  double sum = 0;
  for (int64_t k = 0; k < columns; ++k) {
    const double product = static_cast<double>(a[k * rows + row]) * b[k * rows + row];
    sum += cost ? cost[k] * product : product;
  }
  dot[row] = sum;
}

}  // namespace tq::cuda
