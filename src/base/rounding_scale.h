// The unit of values that are rounded to whole numbers of a few bits. Always inlined: files of several instruction sets include this.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace tq {

// Values / scale are whole numbers of at most the steps asked for. Where a value is no finite number, all are stored as zeros: the scale,
// NaN, makes NaN of whatever is read. Where values are so small that the inverse would overflow, all round to zero.
struct RoundingScale {
  float scale, inverse;
  bool is_finite;
};

// largest: largest_magnitude of the values.
[[gnu::always_inline]] inline RoundingScale rounding_scale(float largest, float steps) {
  if (!std::isfinite(largest)) return {std::numeric_limits<float>::quiet_NaN(), 0.0f, false};
  const float inverse = largest > 0 ? steps / largest : 0.0f;
  return {largest / steps, std::isfinite(inverse) ? inverse : 0.0f, true};
}

// max |x|; NaN if any is: as whole numbers, the bits of magnitudes are in the order of the magnitudes, with NaN above infinity.
[[gnu::always_inline]] inline float largest_magnitude(const float* values, int64_t count) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return std::bit_cast<float>(largest);
}

}  // namespace tq
