// Floats as unsigned numbers in the same order.
#pragma once

#include <cstdint>

namespace tq::cuda {

// The two zeros are one.
__device__ __forceinline__ uint32_t order_of(float value) {
  const uint32_t bits = value == 0.0f ? 0u : __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(uint32_t order) { return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order); }

}  // namespace tq::cuda
