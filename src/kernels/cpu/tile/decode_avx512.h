// Tiles by byte shuffles of 64 columns and 16 rows at a time. What is left at the end of a row, and tiles at the seam, go the way of AVX2.
#pragma once

#include "kernels/cpu/simd/transpose_avx512.h"
#include "kernels/cpu/tile/decode_x86.h"

namespace tq::cpu {
namespace {

constexpr int64_t kWideLines = 16;    // of four columns each
constexpr int64_t kFetchLines = 128;  // ahead: those of the next columns to be decoded, after a product

// As group_bits of 32 columns.
inline void group_bits(const __m512i* lanes, __m512i (&groups)[4]) {
  const __m512i even = _mm512_set1_epi8(0x55), low = _mm512_set1_epi8(0x33);
  constexpr int kSelect = 0xca;  // bits of the second where the first is set, else of the third
  __m512i pairs[2][2];
  for (int i = 0; i < 2; ++i) {
    const __m512i a = lanes[2 * i], b = lanes[2 * i + 1];
    pairs[i][0] = _mm512_ternarylogic_epi32(even, a, _mm512_slli_epi16(b, 1), kSelect);
    pairs[i][1] = _mm512_ternarylogic_epi32(even, _mm512_srli_epi16(a, 1), b, kSelect);
  }
  for (int parity = 0; parity < 2; ++parity) {
    const __m512i a = pairs[0][parity], b = pairs[1][parity];
    groups[parity] = _mm512_ternarylogic_epi32(low, a, _mm512_slli_epi16(b, 2), kSelect);
    groups[parity + 2] = _mm512_ternarylogic_epi32(low, _mm512_srli_epi16(a, 2), b, kSelect);
  }
}

inline void gather_nibbles(const TileSource& source, const NibbleRange& range, int64_t line, uint8_t (*nibbles)[64]) {
  const __m512i mask = _mm512_set1_epi8(15);
  const int64_t last = range.first + range.count - 1;
  for (int64_t block = range.first / 32; block <= last / 32; ++block) {
    const uint8_t* lines = source.bits + (block * source.lines + line) * grid::kLineBytes;
    __m512i read[16], lanes[16];
    for (int64_t i = 0; i < kWideLines; ++i) {
      read[i] = _mm512_loadu_si512(lines + i * grid::kLineBytes);
      _mm_prefetch(lines + (i + kFetchLines) * grid::kLineBytes, _MM_HINT_T1);
    }
    transpose_16x16(read, [&](int64_t w, __m512i lane) { lanes[w] = lane; });
    for (int64_t q = 0; q < 4; ++q) {
      __m512i groups[4];
      group_bits(lanes + 4 * q, groups);
      for (int64_t m = 0; m < 4; ++m) {
        const int64_t n = block * 32 + 4 * m + q - range.first;  // of j = m; j = m + 4 is 16 groups on
        if (n >= 0 && n < range.count) _mm512_store_si512(nibbles[n], _mm512_and_si512(groups[m], mask));
        if (n + 16 >= 0 && n + 16 < range.count)
          _mm512_store_si512(nibbles[n + 16], _mm512_and_si512(_mm512_srli_epi16(groups[m], 4), mask));
      }
    }
  }
}

// Low and high sums of one row for 64 columns.
template <int kCount>
void look_up(const int8_t (*low_table)[16], const int8_t (*high_table)[16], const uint8_t (*nibbles)[64], __m512i& low, __m512i& high) {
  low = high = _mm512_setzero_si512();
  for (int i = 0; i < kCount; ++i) {
    const __m512i index = _mm512_load_si512(nibbles[i]);
    const auto entries = [&](const int8_t* sixteen) {
      return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(sixteen)));
    };
    low = _mm512_add_epi8(low, _mm512_shuffle_epi8(entries(low_table[i]), index));
    high = _mm512_add_epi8(high, _mm512_shuffle_epi8(entries(high_table[i]), index));
  }
}

inline void look_up(const TapTable& taps, int64_t place, const uint8_t (*nibbles)[64], __m512i& low, __m512i& high) {
  const auto* low_table = taps.low[place];
  const auto* high_table = taps.high[place];
  switch (taps.nibbles[place]) {
    case 1: return look_up<1>(low_table, high_table, nibbles, low, high);
    case 2: return look_up<2>(low_table, high_table, nibbles, low, high);
    case 3: return look_up<3>(low_table, high_table, nibbles, low, high);
    case 4: return look_up<4>(low_table, high_table, nibbles, low, high);
    case 5: return look_up<5>(low_table, high_table, nibbles, low, high);
    case 6: return look_up<6>(low_table, high_table, nibbles, low, high);
    default: return look_up<7>(low_table, high_table, nibbles, low, high);
  }
}

// (low + 16) / 32, rounded down.
inline __m512i carry_of(__m512i low) {
  const __m512i shifted = _mm512_srli_epi16(_mm512_add_epi8(low, _mm512_set1_epi8(static_cast<char>(144))), 5);
  return _mm512_sub_epi8(_mm512_and_si512(shifted, _mm512_set1_epi8(7)), _mm512_set1_epi8(4));
}

// 16 rows of 64 columns: what is made of low and high, word w of the rows at out + place(w).
template <typename Make, typename Place>
void store_rows(const __m512i (&low)[16], const __m512i (&high)[16], uint8_t* out, Make make, Place place) {
  __m512i rows[16];
  for (int r = 0; r < 16; ++r) rows[r] = make(low[r], high[r]);
  transpose_16x16(rows, [&](int64_t w, __m512i line) { _mm512_storeu_si512(out + place(w), line); });
}

inline void store_rows(TileElement element, const __m512i (&low)[16], const __m512i (&high)[16], uint8_t* out) {
  const auto rounded = [](__m512i l, __m512i h) { return _mm512_add_epi8(h, carry_of(l)); };
  const auto every_64 = [](int64_t w) { return 64 * w; };
  const auto every_128 = [](int64_t w) { return 128 * w; };
  const __m512i weights = _mm512_set1_epi16(32 << 8 | 1), sign = _mm512_set1_epi8(static_cast<char>(0x80));
  switch (element) {
    case TileElement::kInt8:
      return store_rows(
          low, high, out, [&](__m512i l, __m512i h) { return _mm512_xor_si512(rounded(l, h), sign); }, every_64);
    case TileElement::kSigned: return store_rows(low, high, out, rounded, every_64);
    case TileElement::kSplit:
      store_rows(low, high, out, rounded, every_128);
      return store_rows(
          low, high, out + 64,
          [](__m512i l, __m512i) {
            const __m512i times_32 = _mm512_slli_epi16(carry_of(l), 5);
            return _mm512_sub_epi8(l, _mm512_and_si512(times_32, _mm512_set1_epi8(static_cast<char>(0xe0))));
          },
          every_128);
    case TileElement::kInt16:
      // A quarter of a vector holds columns 0 to 7 of its 16, then 8 to 15.
      for (int half = 0; half < 2; ++half)
        store_rows(
            low, high, out + half * 4 * 64,
            [&](__m512i l, __m512i h) {
              return _mm512_maddubs_epi16(weights, half == 0 ? _mm512_unpacklo_epi8(l, h) : _mm512_unpackhi_epi8(l, h));
            },
            [](int64_t w) { return (w / 4 * 8 + w % 4) * 64; });
  }
}

inline void decode(const TileSource& source, TileElement element, uint8_t* panels, int64_t panel_bytes) {
  const TapTable& taps = *source.taps;
  const NibbleRange range(source);
  alignas(64) uint8_t nibbles[kMostNibbles][64];
  int64_t line = source.first_line;
  for (; range.first >= 0 && line + kWideLines <= source.end_line; line += kWideLines) {
    gather_nibbles(source, range, line, nibbles);
    for (int64_t first = 0; first < kTileRows; first += kPanelRows) {
      __m512i low[kPanelRows], high[kPanelRows];
      for (int64_t i = 0; i < kPanelRows; ++i) {
        const int64_t row = first + i, oldest = range.start + row * taps.rate;
        if (row < source.rows) look_up(taps, oldest & 3, nibbles + (floor_of_4(oldest) - range.first), low[i], high[i]);
        else low[i] = high[i] = _mm512_setzero_si512();
      }
      store_rows(element, low, high, panels + first / kPanelRows * panel_bytes + (line - source.first_line) * 64 * bytes_of(element));
    }
  }
  decode_lines(source, range, element, line, panels, panel_bytes);
}

}  // namespace
}  // namespace tq::cpu
