// Floats as halves, and as the sum of two halves (22 bits) after they were scaled by a power of two.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace tq::cuda {

// The nearest half. A number beyond the largest one becomes that, not infinity: a few activations of some models are so large.
__device__ __forceinline__ __half to_half(float value) {
  constexpr float kLargestHalf = 65504.0f;
  const bool is_beyond = fabsf(value) > kLargestHalf && fabsf(value) <= 3.4028234e38f;
  return __float2half_rn(is_beyond ? copysignf(kLargestHalf, value) : value);
}

constexpr int kLowestExponent = -100;  // of what is scaled by a power of two

__device__ __forceinline__ float power_of_two(int exponent) { return exponent < -126 ? 0.0f : __int_as_float((exponent + 127) << 23); }
// The exponent of the largest of some magnitudes.
__device__ __forceinline__ int exponent_of(float largest) { return max(kLowestExponent, ((__float_as_int(largest) >> 23) & 255) - 127); }

__device__ __forceinline__ uint32_t bits_of(__half2 pair) { return *reinterpret_cast<const uint32_t*>(&pair); }
__device__ __forceinline__ uint32_t halves(float low, float high) { return bits_of(__floats2half2_rn(low, high)); }
// What rounding to halves has left over, as halves.
__device__ __forceinline__ uint32_t rest_of_halves(float low, float high) {
  const float2 rounded = __half22float2(__floats2half2_rn(low, high));
  return halves(low - rounded.x, high - rounded.y);
}

}  // namespace tq::cuda
