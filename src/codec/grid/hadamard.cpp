// The rotation of a matrix's input: signs, then the orthonormal Hadamard transform on blocks (design: the grid, section 2).
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "codec/grid/grid.h"

namespace tq::grid {
namespace {

constexpr int64_t kLargestBlock = 256;

using Vector = float __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4;

inline Vector load(const float* values) {
  Vector v;
  std::memcpy(&v, values, sizeof v);
  return v;
}
inline void store(float* values, Vector v) { std::memcpy(values, &v, sizeof v); }

// The butterflies of distance 1 and 2 inside a vector: a + b and a - b, the latter as -b + a, which is the same float.
inline Vector inner_butterflies(Vector v) {
  const Vector odd = {1, -1, 1, -1}, upper = {1, 1, -1, -1};
  v = v * odd + __builtin_shufflevector(v, v, 1, 0, 3, 2);
  return v * upper + __builtin_shufflevector(v, v, 2, 3, 0, 1);
}

// Distances `half` and 2 * half in one pass over the block.
void two_stages(float* values, int64_t size, int64_t half) {
  for (int64_t group = 0; group < size; group += 4 * half)
    for (int64_t i = group; i < group + half; i += kLanes) {
      const Vector a = load(values + i), b = load(values + i + half), c = load(values + i + 2 * half), d = load(values + i + 3 * half);
      const Vector ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
      store(values + i, ab + cd), store(values + i + half, a_b + c_d);
      store(values + i + 2 * half, ab - cd), store(values + i + 3 * half, a_b - c_d);
    }
}

void one_stage(float* values, int64_t size, int64_t half) {
  for (int64_t group = 0; group < size; group += 2 * half)
    for (int64_t i = group; i < group + half; ++i) {
      const float a = values[i], b = values[i + half];
      values[i] = a + b;
      values[i + half] = a - b;
    }
}

// Sylvester order, so entry (i, j) is (-1)^popcount(i & j) / sqrt(size). The scale of an even power of two is exact. The stages come in
// ascending order, each value the sum or difference of two: the format fixes the bits of the result.
void hadamard(float* values, int64_t size) {
  int64_t half = 1;
  if (size >= kLanes) {
    for (int64_t i = 0; i < size; i += kLanes) store(values + i, inner_butterflies(load(values + i)));
    half = kLanes;
    for (; 4 * half <= size; half *= 4) two_stages(values, size, half);
  }
  for (; half < size; half *= 2) one_stage(values, size, half);
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  for (int64_t i = 0; i < size; ++i) values[i] *= scale;
}

void apply_signs(float* row, int64_t columns, const uint8_t* sign) {
  // The bit becomes the float's sign bit: no branch that could be predicted wrongly.
  for (int64_t k = 0; k < columns; ++k) {
    const uint32_t flip = static_cast<uint32_t>(sign[k / 8] >> (k % 8) & 1) << 31;
    row[k] = std::bit_cast<float>(std::bit_cast<uint32_t>(row[k]) ^ flip);
  }
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
