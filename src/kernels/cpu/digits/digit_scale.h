// The power of two of a row's 256 columns.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

namespace tq::cpu {

struct DigitScale {
  float factor;  // from floats to whole numbers, at most 127 * 65536 + 127 * 256 + 127 in magnitude
  float scale;   // what 2^8 of them are worth

  // largest: the bits of the largest magnitude. Magnitudes below some 2^-126 count as 0.
  explicit DigitScale(uint32_t largest) {
    // The next exponent for what would be rounded to more than that.
    const uint32_t exponent = std::max((largest + 0x010101u) >> 23, kLeast);
    factor = std::bit_cast<float>((276 - exponent) << 23);
    scale = largest < kInfinity ? std::bit_cast<float>((exponent - 14) << 23) : std::numeric_limits<float>::quiet_NaN();
  }
  bool is_finite() const { return scale == scale; }

 private:
  static constexpr uint32_t kLeast = 24, kInfinity = 0x7f800000u;
};

}  // namespace tq::cpu
