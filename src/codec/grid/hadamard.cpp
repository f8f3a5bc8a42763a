// The rotation of a matrix's input: signs, then the orthonormal Hadamard transform on blocks (design: the grid, section 2).
#include <cmath>

#include "base/check.h"
#include "codec/grid/grid.h"

namespace tq::grid {
namespace {

constexpr int64_t kLargestBlock = 256;

// Sylvester order, so entry (i, j) is (-1)^popcount(i & j) / sqrt(size). The scale of an even power of two is exact.
void hadamard(float* values, int64_t size) {
  for (int64_t half = 1; half < size; half *= 2)
    for (int64_t group = 0; group < size; group += 2 * half)
      for (int64_t i = group; i < group + half; ++i) {
        const float a = values[i], b = values[i + half];
        values[i] = a + b;
        values[i + half] = a - b;
      }
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  for (int64_t i = 0; i < size; ++i) values[i] *= scale;
}

void apply_signs(float* row, int64_t columns, const uint8_t* sign) {
  for (int64_t k = 0; k < columns; ++k)
    if (sign[k / 8] >> (k % 8) & 1) row[k] = -row[k];
}

void transform_blocks(float* row, int64_t columns, int64_t block) {
  for (int64_t k = 0; k < columns; k += block) hadamard(row + k, block);
}

}  // namespace

int64_t hadamard_block(int64_t columns) {
  TQ_CHECK(columns > 0);
  int64_t block = 1;
  while (block < kLargestBlock && columns % (2 * block) == 0) block *= 2;
  return block;
}

void rotate(float* rows, int64_t count, int64_t columns, const uint8_t* sign) {
  const int64_t block = hadamard_block(columns);
  for (int64_t i = 0; i < count; ++i) {
    apply_signs(rows + i * columns, columns, sign);
    transform_blocks(rows + i * columns, columns, block);
  }
}

void unrotate(float* rows, int64_t count, int64_t columns, const uint8_t* sign) {
  const int64_t block = hadamard_block(columns);
  for (int64_t i = 0; i < count; ++i) {
    transform_blocks(rows + i * columns, columns, block);
    apply_signs(rows + i * columns, columns, sign);
  }
}

}  // namespace tq::grid
