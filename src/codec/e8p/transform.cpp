// Random Hadamard transforms of sizes that are no powers of two, by Paley's constructions (Paley 1933).
#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "codec/e8p/e8p.h"

namespace tq::e8p {
namespace {

// 1, -1 or 0: whether n is a square modulo the prime q.
int quadratic_character(int n, int q) {
  n = (n % q + q) % q;
  if (n == 0) return 0;
  for (int i = 1; i < q; ++i)
    if (i * i % q == n) return 1;
  return -1;
}

// Order q + 1, q = 3 modulo 4: I + S with S skew.
std::vector<int8_t> paley_one(int q) {
  const int n = q + 1;
  std::vector<int8_t> out(static_cast<size_t>(n * n));
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      int value = i == j ? 1 : i == 0 ? 1 : j == 0 ? -1 : quadratic_character(i - j, q);
      out[static_cast<size_t>(i * n + j)] = static_cast<int8_t>(value);
    }
  return out;
}

// Order 2 (q + 1), q = 1 modulo 4: the symmetric conference matrix C of order q + 1 as C x [1 1; 1 -1] + I x [1 -1; -1 -1].
std::vector<int8_t> paley_two(int q) {
  const int half = q + 1, n = 2 * half;
  std::vector<int8_t> out(static_cast<size_t>(n * n));
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      const int a = i / 2, b = j / 2, lower = i % 2, right = j % 2;
      int value = 0;
      if (a == b) value = lower == 0 && right == 0 ? 1 : -1;
      else value = (a == 0 || b == 0 ? 1 : quadratic_character(a - b, q)) * (lower && right ? -1 : 1);
      out[static_cast<size_t>(i * n + j)] = static_cast<int8_t>(value);
    }
  return out;
}

const std::map<int64_t, std::vector<int8_t>>& factors() {
  static const std::map<int64_t, std::vector<int8_t>> kFactors = {{12, paley_one(11)}, {20, paley_one(19)}, {28, paley_two(13)},
                                                                  {36, paley_two(17)}, {76, paley_two(37)}, {140, paley_one(139)}};
  return kFactors;
}

bool is_power_of_two(int64_t n) { return (n & (n - 1)) == 0; }

void sylvester(float* values, int64_t size) {
  for (int64_t half = 1; half < size; half *= 2)
    for (int64_t group = 0; group < size; group += 2 * half)
      for (int64_t i = group; i < group + half; ++i) {
        const float a = values[i], b = values[i + half];
        values[i] = a + b, values[i + half] = a - b;
      }
}

void flip(float* values, int64_t size, const uint8_t* sign) {
  for (int64_t k = 0; k < size; ++k)
    if (sign[k / 8] >> (k % 8) & 1) values[k] = -values[k];
}

}  // namespace

Transform::Transform(int64_t size) : size_(size) {
  TQ_CHECK(size > 0);
  while (size % (2 * block_) == 0) block_ *= 2;
  for (const auto& [order, factor] : factors()) {
    if (size % order != 0 || !is_power_of_two(size / order)) continue;
    order_ = order, block_ = size / order, factor_ = factor;
  }
}

// y[a] = sum_i H[a, i] x[i] over the blocks, then the scale that makes everything orthonormal.
void Transform::mix(float* values, bool is_transposed) const {
  if (order_ > 1) {
    const std::vector<float> blocks(values, values + size_);
    for (int64_t a = 0; a < order_; ++a) {
      float* sum = values + a * block_;
      std::fill_n(sum, block_, 0.0f);
      for (int64_t i = 0; i < order_; ++i) {
        const auto sign = static_cast<float>(factor_[static_cast<size_t>(is_transposed ? i * order_ + a : a * order_ + i)]);
        const float* block = blocks.data() + i * block_;
        for (int64_t j = 0; j < block_; ++j) sum[j] += sign * block[j];
      }
    }
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(block_ * order_));
  for (int64_t k = 0; k < size_; ++k) values[k] *= scale;
}

void Transform::apply(float* values, const uint8_t* sign) const {
  flip(values, size_, sign);
  for (int64_t k = 0; k < size_; k += block_) sylvester(values + k, block_);
  mix(values, false);
}

void Transform::undo(float* values, const uint8_t* sign) const {
  for (int64_t k = 0; k < size_; k += block_) sylvester(values + k, block_);
  mix(values, true);
  flip(values, size_, sign);
}

}  // namespace tq::e8p
