// Bands of 16 rows decoded by the tensor cores (docs/kernels.md, "Planes decoded in registers").
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/band_decode.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/half_terms.cuh"

namespace tq::cuda {

// d = a b, or += : a 16 x 16 halves, b 16 x 8, both in fragment order; sums are halves or floats.
template <bool kAdds>
__device__ __forceinline__ void mma_band(uint32_t (&d)[2], const uint32_t (&a)[4], const uint2& b) {
  if constexpr (kAdds)
    asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
        : "+r"(d[0]), "+r"(d[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%8,%8};"
        : "=r"(d[0]), "=r"(d[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(0));
}
template <bool kAdds>
__device__ __forceinline__ void mma_band(float (&d)[4], const uint32_t (&a)[4], const uint2& b) {
  if constexpr (!kAdds) d[0] = d[1] = d[2] = d[3] = 0.0f;
  mma_halves(d, a, b.x, b.y);
}

// A tap as bands have it.
__device__ __forceinline__ float rounded_tap(float tap) { return __half2float(__float2half_rn(kTapPower * tap)) / kTapPower; }

// Bands of a rate. Bits are operand A (16 columns x 16 plane rows) as they lie in the words, a half of {0, 2^(bit - 24)} each; taps are
// operand B (for 8 rows), kTapPower times what they are. Decoded are columns by rows, band_exponent() halvings too large; all bits count 0
// or 1.
template <int kRate>
struct Bands {
  static constexpr int kTiles = kRate + 1;  // the first one: what windows take of the rows before
  static constexpr int kTaken = band_taken_tiles(kRate);

  // A lane's taps for both halves and their tiles, in turn.
  static __device__ __forceinline__ uint2 taps_of(const float* taps, int window, int lane, int i) {
    const int half = i / kTaken, tile = band_first_tile(kRate, half) + i % kTaken;
    float value[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int tap = band_tap(kRate, 8 * half + lane / 4, tile, lane % 4 * 2 + k % 2 + 8 * (k / 2));
      value[k] = tap >= 0 && tap < window ? kTapPower * taps[tap] : 0.0f;
    }
    return make_uint2(halves(value[0], value[1]), halves(value[2], value[3]));
  }

  // A lane's words of half a group, turned (band_column()).
  static __device__ __forceinline__ void turn(const uint2 (&words)[kTiles], uint32_t (&bits)[kTiles][2]) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) bits[i][0] = transpose_matrix(words[i].x), bits[i][1] = transpose_matrix(words[i].y);
  }

  // Bits 8 kByte + 0..7, two at a time, kPairs of these from kFirst on: use(pair, half of the band, sums). Sums: uint32_t[2] (halves) or
  // float[4], of lane 4 g + t the rows 2 t and 2 t + 1 of the half, of columns with bits 2 pair and then 2 pair + 1.
  template <int kByte, typename Sums, int kFirst = 0, int kPairs = 4, typename Use>
  static __device__ __forceinline__ void decode(const uint32_t (&bits)[kTiles][2], const uint2 (&taps)[2 * kTaken], const Use& use) {
    uint32_t byte[kTiles][2];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) byte[i][0] = bits[i][0] >> 8 * kByte, byte[i][1] = bits[i][1] >> 8 * kByte;
#pragma unroll
    for (int pair = kFirst; pair < kFirst + kPairs; ++pair) {
      const uint32_t even = 0x00010001u << 2 * pair, odd = even << 1;
      uint32_t column[kTiles][4];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        column[i][0] = byte[i][0] & even, column[i][1] = byte[i][0] & odd;
        column[i][2] = byte[i][1] & even, column[i][3] = byte[i][1] & odd;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Sums sums;
        mma_band<false>(sums, column[band_first_tile(kRate, half)], taps[half * kTaken]);
#pragma unroll
        for (int i = 1; i < kTaken; ++i) mma_band<true>(sums, column[band_first_tile(kRate, half) + i], taps[half * kTaken + i]);
        use(pair, half, sums);
      }
    }
  }

  // Operands A of rows by 16 columns each, kSteps of them: those of bits 8 kByte + 2 step and + 1, from step kFirst on.
  template <int kByte, int kFirst, int kSteps>
  static __device__ __forceinline__ void decode(const uint32_t (&bits)[kTiles][2], const uint2 (&taps)[2 * kTaken],
                                                uint32_t (&a)[kSteps][4]) {
    decode<kByte, uint32_t[2], kFirst, kSteps>(bits, taps, [&](int step, int half, const uint32_t(&sums)[2]) {
      a[step - kFirst][half] = transpose_matrix(sums[0]), a[step - kFirst][2 + half] = transpose_matrix(sums[1]);
    });
  }
};

// use.operator()<rate>() of a rate from 1 to kMost; others do nothing.
template <int kMost, typename Use>
__device__ __forceinline__ void with_rate(int rate, const Use& use) {
  static_assert(kMost == 6 || kMost == 8);
  switch (rate) {
    case 1: return use.template operator()<1>();
    case 2: return use.template operator()<2>();
    case 3: return use.template operator()<3>();
    case 4: return use.template operator()<4>();
    case 5: return use.template operator()<5>();
    case 6: return use.template operator()<6>();
    case 7:
      if constexpr (kMost >= 7) use.template operator()<7>();
      return;
    case 8:
      if constexpr (kMost >= 8) use.template operator()<8>();
      return;
    default: return;
  }
}

}  // namespace tq::cuda
