// Products of floats by way of bytes. A float is a whole number of 24 bits times a power of two that a row's 256 columns share; the number
// is three digits of base 256, a 2^16 + b 2^8 + c, -128 to 127 each. Products of digits are exact sums in 32 bits; of the nine, the six
// down to 2^16 of 2^32 are taken: aA, aB, bA, aC, bB, cA. The error is as that of floats: an operand is rounded to 2^-24 or 2^-23 of the
// largest of its 256 columns, and what is left out is 2^-25 of the product of both largest (root mean square).
#pragma once

#include <cstdint>

#include "base/cpu.h"

namespace tq::cpu {

constexpr int kDigits = 3;
constexpr int64_t kDigitRows = 16;    // of a tile of either operand
constexpr int64_t kDigitStep = 64;    // columns of a tile
constexpr int64_t kDigitGroup = 256;  // columns that share a power of two
constexpr int64_t kDigitTileBytes = 1024;
constexpr int64_t kDigitBytes = kDigitGroup / kDigitStep * kDigits * kDigitTileBytes;  // of 16 rows and 256 columns

// Up to 16 rows of floats.
struct DigitSource {
  const float* rows = nullptr;
  int64_t stride = 0;  // from one to the next
  int64_t count = 0, columns = 0;
};

// For each 256 columns: [steps that have columns, 4 at most][digit, the highest first][1024], zeros behind the last column and row. Column
// 16 j + i of a step is byte 4 i + j of a row in the left operand, [16 rows][64]; in the right one byte j of a row in line i, [16 lines][16
// rows][4]. scale: what 2^8 of the whole numbers are worth, [16 rows]; NaN where the row has a NaN or an infinity.
struct DigitTarget {
  uint8_t* values = nullptr;
  int64_t group_bytes = 0;  // from one 256 columns to the next
  float* scale = nullptr;
  int64_t scale_stride = 0;
};

// sums[tile][left row][right row] += the products over up to 256 columns.
struct DigitProduct {
  const uint8_t* left = nullptr;      // [tiles]
  int64_t left_bytes = kDigitBytes;   // from one to the next
  const float* left_scale = nullptr;  // [tiles][16]
  int64_t tiles = 0;
  const uint8_t* right = nullptr;
  const float* right_scale = nullptr;  // [16]
  int64_t columns = 0;
  float* sums = nullptr;  // [tiles][16][16]
};

// output[right row][left row] = sums[left row][right row] + bias[left row], for the first left and right ones of 16.
struct DigitOutput {
  const float* sums = nullptr;
  int64_t sums_stride = kDigitRows;  // from one left row to the next
  const float* bias = nullptr;       // [left] or null
  int64_t left = 0, right = 0;
  float* output = nullptr;
  int64_t stride = 0;  // from one right row to the next
};

struct DigitKernels {
  void (*split_left)(const DigitSource& source, const DigitTarget& target);
  void (*split_right)(const DigitSource& source, const DigitTarget& target);
  void (*multiply)(const DigitProduct& product);
  void (*write)(const DigitOutput& output);
  // Around the products of a thread; or null.
  void (*begin)();
  void (*end)();
};

// Any processor's, slow: what the others are compared with.
const DigitKernels& digit_kernels_generic();
// Null where the instruction set has no tiles of bytes.
const DigitKernels* digit_kernels(Isa isa);

}  // namespace tq::cpu
