// vpdpbusd of 8-bit weights (plus 128) and activations, vpdpwssd of 16-bit ones. Both panels of a tile at once.
#if defined(__x86_64__)
#include "kernels/cpu/tile/decode_avx512.h"

namespace tq::cpu {
namespace {

constexpr int kTokens = 12;

template <TileElement kElement>
void multiply_as(const TileProduct& product) {
  constexpr int64_t kLine = kElement == TileElement::kInt8 ? 4 : 2;  // columns of a panel's line
  for (int64_t k = 0; k < product.columns; k += product.flush) {
    const int64_t lines = std::min(product.flush, product.columns - k) / kLine;
    const uint8_t* weights = product.panel + k / kLine * 64;
    const uint8_t* input = product.input + k / kLine * kTokens * 4;
    __m512i sum[kTokens][2];
    for (int t = 0; t < kTokens; ++t)
      sum[t][0] = sum[t][1] =
          kElement == TileElement::kInt8 ? _mm512_set1_epi32(product.offset[k / 256 * kTokens + t]) : _mm512_setzero_si512();
    for (int64_t line = 0; line < lines; ++line, weights += 64, input += kTokens * 4) {
      const __m512i w0 = _mm512_loadu_si512(weights), w1 = _mm512_loadu_si512(weights + product.panel_bytes);
      for (int t = 0; t < kTokens; ++t) {
        int32_t four;
        std::memcpy(&four, input + 4 * t, sizeof four);
        const __m512i x = _mm512_set1_epi32(four);
        if constexpr (kElement == TileElement::kInt8) {
          sum[t][0] = _mm512_dpbusd_epi32(sum[t][0], w0, x);
          sum[t][1] = _mm512_dpbusd_epi32(sum[t][1], w1, x);
        } else {
          sum[t][0] = _mm512_dpwssd_epi32(sum[t][0], w0, x);
          sum[t][1] = _mm512_dpwssd_epi32(sum[t][1], w1, x);
        }
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      const __m512 scale = _mm512_set1_ps(product.scale[k / 256 * kTokens + t]);
      for (int h = 0; h < 2; ++h) {
        float* sums = product.sums + t * kTileRows + 16 * h;
        _mm512_storeu_ps(sums, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][h]), scale, _mm512_loadu_ps(sums)));
      }
    }
  }
}

void multiply(TileElement element, const TileProduct& product) {
  for_blocks(product, kTokens, element == TileElement::kInt8 ? multiply_as<TileElement::kInt8> : multiply_as<TileElement::kInt16>);
}

constexpr TileKernels kTable = {.tokens = kTokens,
                                .panels = 2,
                                .element = {TileElement::kInt8, TileElement::kInt16},
                                .decode = decode,
                                .pack = pack_lanes<kTokens>,
                                .multiply = multiply,
                                .write = write_rows,
                                .name = {"tiles avx512 vnni i8", "tiles avx512 vnni i16"}};

}  // namespace

const TileKernels& tile_kernels_avx512();
const TileKernels& tile_kernels_avx512() { return kTable; }

}  // namespace tq::cpu
#endif
