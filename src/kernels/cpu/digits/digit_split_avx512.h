// Floats to digits, 64 columns at a time. Include in files for AVX-512 only.
#pragma once

#include <algorithm>

#include "kernels/cpu/digits/digit_kernels.h"
#include "kernels/cpu/digits/digit_scale.h"
#include "kernels/cpu/simd/transpose_avx512.h"

namespace tq::cpu {
namespace {

// 16 floats from the row's column k on, zeros behind the last.
inline __m512 load_columns(const float* row, int64_t k, int64_t columns) {
  if (k + 16 <= columns) return _mm512_loadu_ps(row + k);
  const auto mask = static_cast<__mmask16>(k < columns ? (1u << (columns - k)) - 1 : 0u);
  return _mm512_maskz_loadu_ps(mask, row + k);
}

inline DigitScale scale_of(const float* row, int64_t columns) {
  __m512i largest = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int64_t k = 0; k < columns; k += 16)
    largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(load_columns(row, k, columns)), magnitude));
  return DigitScale(_mm512_reduce_max_epu32(largest));
}

// Bits of a where the mask is set, else of b.
inline __m512i select(__m512i mask, __m512i a, __m512i b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xca); }

// The digits of 64 columns from k on.
inline void split_step(const float* row, int64_t k, int64_t columns, float factor, __m512i (&digits)[kDigits]) {
  const __m512i half = _mm512_set1_epi32(0x8080), sign = _mm512_set1_epi8(static_cast<char>(0x80));
  const __m512i words = _mm512_set1_epi32(0xffff), bytes = _mm512_set1_epi16(0xff);
  __m512i whole[4];
  for (int j = 0; j < 4; ++j)
    whole[j] = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(load_columns(row, k + 16 * j, columns), _mm512_set1_ps(factor))), half);
  // Words of two numbers side by side, then bytes of four.
  const __m512i low_02 = select(words, whole[0], _mm512_slli_epi32(whole[2], 16));
  const __m512i low_13 = select(words, whole[1], _mm512_slli_epi32(whole[3], 16));
  const __m512i high_02 = select(words, _mm512_srli_epi32(whole[0], 16), whole[2]);
  const __m512i high_13 = select(words, _mm512_srli_epi32(whole[1], 16), whole[3]);
  digits[0] = select(bytes, high_02, _mm512_slli_epi16(high_13, 8));
  digits[1] = _mm512_xor_si512(sign, select(bytes, _mm512_srli_epi16(low_02, 8), low_13));
  digits[2] = _mm512_xor_si512(sign, select(bytes, low_02, _mm512_slli_epi16(low_13, 8)));
}

// The left operand's rows as they are, the right one's turned.
template <bool kIsLeft>
void split_rows(const DigitSource& source, const DigitTarget& target) {
  for (int64_t first = 0, group = 0; first < source.columns; first += kDigitGroup, ++group) {
    const int64_t columns = std::min(kDigitGroup, source.columns - first);
    float* scale = target.scale + group * target.scale_stride;
    float factor[kDigitRows] = {};
    for (int64_t r = 0; r < kDigitRows; ++r) {
      if (r < source.count) {
        const DigitScale unit = scale_of(source.rows + r * source.stride + first, columns);
        factor[r] = unit.is_finite() ? unit.factor : 0.0f, scale[r] = unit.scale;
      } else {
        scale[r] = 0.0f;
      }
    }
    uint8_t* out = target.values + group * target.group_bytes;
    for (int64_t k = 0; k < columns; k += kDigitStep, out += kDigits * kDigitTileBytes) {
      [[maybe_unused]] __m512i digits[kDigits][16];
      for (int64_t r = 0; r < kDigitRows; ++r) {
        __m512i row[kDigits] = {};
        if (r < source.count) split_step(source.rows + r * source.stride + first, k, columns, factor[r], row);
        for (int d = 0; d < kDigits; ++d) {
          if constexpr (kIsLeft) _mm512_storeu_si512(out + d * kDigitTileBytes + r * 64, row[d]);
          else digits[d][r] = row[d];
        }
      }
      if constexpr (!kIsLeft)
        for (int d = 0; d < kDigits; ++d)
          transpose_16x16(digits[d], [&](int64_t i, __m512i line) { _mm512_storeu_si512(out + d * kDigitTileBytes + i * 64, line); });
    }
  }
}

}  // namespace
}  // namespace tq::cpu
