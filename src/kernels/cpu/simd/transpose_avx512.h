// Include in files for AVX-512 only.
#pragma once

#include <immintrin.h>

namespace tq::cpu {
namespace {

// rows[i] = words of row i -> store(w, word w of all rows).
template <typename Store>
inline void transpose_16x16(const __m512i (&rows)[16], Store store) {
  __m512i fours[16];  // [4 g + c]: words 4 l + c of rows 4 g to 4 g + 3, l the quarter of the vector
  for (int g = 0; g < 16; g += 4) {
    const __m512i a = _mm512_unpacklo_epi32(rows[g], rows[g + 1]), b = _mm512_unpackhi_epi32(rows[g], rows[g + 1]);
    const __m512i c = _mm512_unpacklo_epi32(rows[g + 2], rows[g + 3]), d = _mm512_unpackhi_epi32(rows[g + 2], rows[g + 3]);
    fours[g] = _mm512_unpacklo_epi64(a, c), fours[g + 1] = _mm512_unpackhi_epi64(a, c);
    fours[g + 2] = _mm512_unpacklo_epi64(b, d), fours[g + 3] = _mm512_unpackhi_epi64(b, d);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i even = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x88), odd = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xdd);
    const __m512i even_2 = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x88);
    const __m512i odd_2 = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xdd);
    store(c, _mm512_shuffle_i32x4(even, even_2, 0x88)), store(8 + c, _mm512_shuffle_i32x4(even, even_2, 0xdd));
    store(4 + c, _mm512_shuffle_i32x4(odd, odd_2, 0x88)), store(12 + c, _mm512_shuffle_i32x4(odd, odd_2, 0xdd));
  }
}

}  // namespace
}  // namespace tq::cpu
