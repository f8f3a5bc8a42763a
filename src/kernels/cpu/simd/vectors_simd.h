// Vectors of kWidth floats (the compilers' vector extension). Include once per instruction set after defining TQ_SIMD_WIDTH.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/float16.h"

namespace tq::cpu {
namespace {

constexpr int64_t kWidth = TQ_SIMD_WIDTH;
using Vector = float __attribute__((vector_size(TQ_SIMD_WIDTH * 4)));
using IntVector = int32_t __attribute__((vector_size(TQ_SIMD_WIDTH * 4)));

inline Vector load(const float* data) {
  Vector v;
  std::memcpy(&v, data, sizeof v);
  return v;
}
inline void store(float* data, Vector v) { std::memcpy(data, &v, sizeof v); }
inline Vector splat(float x) {  // not Vector{} + x: adding 0 changes -0, so that compilers keep the addition
  Vector v;
  for (int64_t i = 0; i < kWidth; ++i) v[i] = x;
  return v;
}
inline float sum_lanes(Vector v) {
  float sum = 0;
  for (int64_t i = 0; i < kWidth; ++i) sum += v[i];
  return sum;
}
inline float largest_lane(Vector v) {
  float largest = v[0];
  for (int64_t i = 1; i < kWidth; ++i) largest = std::max(largest, v[i]);
  return largest;
}
inline Vector max_of(Vector a, Vector b) { return a > b ? a : b; }
inline Vector min_of(Vector a, Vector b) { return a < b ? a : b; }

// kWidth halves, bfloats or floats that lie unaligned, as floats.
inline Vector load_f32(const std::byte* data) {
  Vector v;
  std::memcpy(&v, data, sizeof v);
  return v;
}
inline Vector load_f16(const std::byte* data) {
#if defined(__F16C__) || defined(__AVX512F__)
  using Half = _Float16 __attribute__((vector_size(TQ_SIMD_WIDTH * 2)));
  Half half;
  std::memcpy(&half, data, sizeof half);
  return __builtin_convertvector(half, Vector);
#else
  uint16_t half[kWidth];
  std::memcpy(half, data, sizeof half);
  Vector v;
  for (int64_t i = 0; i < kWidth; ++i) v[i] = f16_to_float(half[i]);
  return v;
#endif
}
inline Vector load_bf16(const std::byte* data) {
  using Short = uint16_t __attribute__((vector_size(TQ_SIMD_WIDTH * 2)));
  using Word = uint32_t __attribute__((vector_size(TQ_SIMD_WIDTH * 4)));
  Short shorts;
  std::memcpy(&shorts, data, sizeof shorts);
  const Word words = __builtin_convertvector(shorts, Word) << 16;
  Vector v;
  std::memcpy(&v, &words, sizeof v);
  return v;
}

}  // namespace
}  // namespace tq::cpu
