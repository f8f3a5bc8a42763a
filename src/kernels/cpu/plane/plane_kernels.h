// What stands around the binary product: the input's rotation and rounding, the FIR over the sums. One table per instruction set; all
// give the same bits.
#pragma once

#include <cstdint>

#include "base/cpu.h"

namespace tq::cpu {

constexpr int64_t kFilterRows = 128;  // rows that one call filters at most

// The rounded activations of one token. Two streams: x = high_scale * high + low_scale * low, 15 bits.
struct RoundArgs {
  const float* rotated = nullptr;  // [C]
  int64_t columns = 0;
  int8_t* high = nullptr;       // [C]
  int8_t* low = nullptr;        // [C] or null: one stream
  float* high_scale = nullptr;  // [groups of 256 columns]
  float* low_scale = nullptr;   // with low
};

// Rows of one rate K: output[r] = row_scale[r] * (2 sum_j taps[j] z[newest + K r - j] - sum * sum_j taps[j]) + bias[r].
struct FilterArgs {
  const float* z = nullptr;  // [plane_rows], a ring
  int64_t plane_rows = 0;
  int64_t newest = 0;  // plane row of the first row's newest bit
  int64_t rate = 0;
  int64_t rows = 0;  // at most kFilterRows
  const float* taps = nullptr;
  int64_t window = 0;
  float sum = 0;                        // of the token's activations
  const uint16_t* row_scale = nullptr;  // f16, [rows]
  const float* bias = nullptr;          // [rows] or null
  float* output = nullptr;              // [rows]
};

struct PlaneKernels {
  // As grid::rotate for one row.
  void (*rotate)(float* row, int64_t columns, const uint8_t* sign);
  // Returns the sum of the rounded activations.
  float (*round)(const RoundArgs& args);
  void (*filter)(const FilterArgs& args);
};

const PlaneKernels& plane_kernels(Isa isa);

}  // namespace tq::cpu
