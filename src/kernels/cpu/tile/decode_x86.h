// Tiles by byte shuffles: a vector is 32 columns, a look-up serves them all. AVX2; the AVX-512 file uses it too.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/tile/tile_common.h"

namespace tq::cpu {
namespace {

inline __m256i load256(const void* data) { return _mm256_loadu_si256(static_cast<const __m256i*>(data)); }

// rows[i] = words of row i -> rows[w] = word w of all rows.
inline void transpose_8x8(__m256i (&rows)[8]) {
  __m256i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm256_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm256_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm256_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm256_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
  }
}

// Four lanes (plane rows 16 j + lane of a block, bit j) to groups[m]: the four bits of j = m in the low nibble, of j = m + 4 in the high.
inline void group_bits(const __m256i* lanes, __m256i (&groups)[4]) {
  const __m256i even = _mm256_set1_epi8(0x55), odd = _mm256_set1_epi8(static_cast<char>(0xaa));
  const __m256i low = _mm256_set1_epi8(0x33), high = _mm256_set1_epi8(static_cast<char>(0xcc));
  __m256i pairs[2][2];  // [lanes 0 and 1 | 2 and 3][even j | odd j]
  for (int i = 0; i < 2; ++i) {
    const __m256i a = lanes[2 * i], b = lanes[2 * i + 1];
    pairs[i][0] = _mm256_or_si256(_mm256_and_si256(a, even), _mm256_slli_epi16(_mm256_and_si256(b, even), 1));
    pairs[i][1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(a, 1), even), _mm256_and_si256(b, odd));
  }
  for (int parity = 0; parity < 2; ++parity) {
    const __m256i a = pairs[0][parity], b = pairs[1][parity];
    groups[parity] = _mm256_or_si256(_mm256_and_si256(a, low), _mm256_slli_epi16(_mm256_and_si256(b, low), 2));
    groups[parity + 2] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(a, 2), low), _mm256_and_si256(b, high));
  }
}

// As fill_nibbles, for a range that does not touch the seam.
inline void gather_nibbles(const TileSource& source, const NibbleRange& range, int64_t line, uint8_t (*nibbles)[32]) {
  const __m256i mask = _mm256_set1_epi8(15);
  const int64_t last = range.first + range.count - 1;
  for (int64_t block = range.first / 32; block <= last / 32; ++block) {
    const uint8_t* lines = source.bits + (block * source.lines + line) * grid::kLineBytes;
    for (int half = 0; half < 2; ++half) {
      __m256i lanes[8];
      for (int i = 0; i < 8; ++i)
        lanes[i] = line + i < source.lines ? load256(lines + i * grid::kLineBytes + 32 * half) : _mm256_setzero_si256();
      transpose_8x8(lanes);
      for (int q = 0; q < 2; ++q) {
        __m256i groups[4];
        group_bits(lanes + 4 * q, groups);
        for (int m = 0; m < 4; ++m) {
          const int64_t n = block * 32 + 4 * m + 2 * half + q - range.first;  // of j = m; j = m + 4 is 16 groups on
          if (n >= 0 && n < range.count) _mm256_store_si256(reinterpret_cast<__m256i*>(nibbles[n]), _mm256_and_si256(groups[m], mask));
          if (n + 16 >= 0 && n + 16 < range.count)
            _mm256_store_si256(reinterpret_cast<__m256i*>(nibbles[n + 16]), _mm256_and_si256(_mm256_srli_epi16(groups[m], 4), mask));
        }
      }
    }
  }
}

inline __m256i table(const int8_t* sixteen) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(sixteen)));
}

// Low and high sums of one row for 32 columns.
inline void look_up(const TapTable& taps, int64_t place, const uint8_t (*nibbles)[32], __m256i& low, __m256i& high) {
  low = high = _mm256_setzero_si256();
  for (int i = 0; i < taps.nibbles[place]; ++i) {
    const __m256i index = _mm256_load_si256(reinterpret_cast<const __m256i*>(nibbles[i]));
    low = _mm256_add_epi8(low, _mm256_shuffle_epi8(table(taps.low[place][i]), index));
    high = _mm256_add_epi8(high, _mm256_shuffle_epi8(table(taps.high[place][i]), index));
  }
}

// Four rows of eight words each -> out + stride w: word w of the four rows; the words of a vector's upper half follow `upper` bytes later.
inline void store_words(const __m256i (&rows)[4], uint8_t* out, int64_t stride, int64_t upper) {
  const __m256i a = _mm256_unpacklo_epi32(rows[0], rows[1]), b = _mm256_unpackhi_epi32(rows[0], rows[1]);
  const __m256i c = _mm256_unpacklo_epi32(rows[2], rows[3]), d = _mm256_unpackhi_epi32(rows[2], rows[3]);
  const __m256i words[4] = {_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c), _mm256_unpacklo_epi64(b, d),
                            _mm256_unpackhi_epi64(b, d)};
  for (int w = 0; w < 4; ++w) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + stride * w), _mm256_castsi256_si128(words[w]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + stride * w + upper), _mm256_extracti128_si256(words[w], 1));
  }
}

// (low + 16) / 32 + 4, rounded down: the division is that of an unsigned byte.
inline __m256i carry_of(__m256i low) {
  const __m256i shifted = _mm256_srli_epi16(_mm256_add_epi8(low, _mm256_set1_epi8(static_cast<char>(144))), 5);
  return _mm256_and_si256(shifted, _mm256_set1_epi8(7));
}

inline void store_bytes(const __m256i (&low)[4], const __m256i (&high)[4], int8_t shift, uint8_t* out) {
  __m256i bytes[4];
  for (int i = 0; i < 4; ++i)
    bytes[i] = _mm256_add_epi8(_mm256_add_epi8(high[i], carry_of(low[i])), _mm256_set1_epi8(static_cast<char>(shift - 4)));
  store_words(bytes, out, 64, 4 * 64);
}

// Rounded as bytes are, what is left beside.
inline void store_split(const __m256i (&low)[4], const __m256i (&high)[4], uint8_t* out) {
  __m256i rounded[4], rest[4];
  for (int i = 0; i < 4; ++i) {
    const __m256i carry = _mm256_sub_epi8(carry_of(low[i]), _mm256_set1_epi8(4));
    rounded[i] = _mm256_add_epi8(high[i], carry);
    const __m256i times_32 = _mm256_and_si256(_mm256_slli_epi16(carry, 5), _mm256_set1_epi8(static_cast<char>(0xe0)));
    rest[i] = _mm256_sub_epi8(low[i], times_32);
  }
  store_words(rounded, out, 128, 4 * 128);
  store_words(rest, out + 64, 128, 4 * 128);
}

inline void store_rows(TileElement element, const __m256i (&low)[4], const __m256i (&high)[4], uint8_t* out) {
  if (element == TileElement::kInt8) return store_bytes(low, high, -128, out);
  if (element == TileElement::kSigned) return store_bytes(low, high, 0, out);
  if (element == TileElement::kSplit) return store_split(low, high, out);
  const __m256i weights = _mm256_set1_epi16(32 << 8 | 1);
  __m256i first[4], second[4];  // columns 0 to 7 and 16 to 23; 8 to 15 and 24 to 31
  for (int i = 0; i < 4; ++i) {
    first[i] = _mm256_maddubs_epi16(weights, _mm256_unpacklo_epi8(low[i], high[i]));
    second[i] = _mm256_maddubs_epi16(weights, _mm256_unpackhi_epi8(low[i], high[i]));
  }
  store_words(first, out, 64, 8 * 64);
  store_words(second, out + 4 * 64, 64, 8 * 64);
}

// From `line` on, eight at a time.
inline void decode_lines(const TileSource& source, const NibbleRange& range, TileElement element, int64_t line, uint8_t* panels,
                         int64_t panel_bytes) {
  const TapTable& taps = *source.taps;
  alignas(32) uint8_t nibbles[kMostNibbles][32];
  const int64_t line_bytes = 64 * bytes_of(element);  // of a panel, for the four columns of a stored line
  for (; line < source.end_line; line += 8) {
    if (range.first >= 0) gather_nibbles(source, range, line, nibbles);
    else fill_nibbles(source, range, line, nibbles);
    for (int64_t row = 0; row < kTileRows; row += 4) {
      __m256i low[4], high[4];
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t oldest = range.start + (row + i) * taps.rate;
        if (row + i < source.rows) look_up(taps, oldest & 3, nibbles + (floor_of_4(oldest) - range.first), low[i], high[i]);
        else low[i] = high[i] = _mm256_setzero_si256();
      }
      store_rows(element, low, high,
                 panels + row / kPanelRows * panel_bytes + (line - source.first_line) * line_bytes + row % kPanelRows * 4);
    }
  }
}

}  // namespace
}  // namespace tq::cpu
