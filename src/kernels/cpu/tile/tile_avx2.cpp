// vpmaddwd of 16-bit weights and activations: as fast as vpmaddubsw with its widening, and nothing can saturate.
#if defined(__x86_64__)
#include "kernels/cpu/tile/decode_x86.h"

#include "base/check.h"

namespace tq::cpu {
namespace {

constexpr int kTokens = 6;

void decode(const TileSource& source, TileElement element, uint8_t* panels, int64_t panel_bytes) {
  decode_lines(source, NibbleRange(source), element, source.first_line, panels, panel_bytes);
}

void multiply_block(const TileProduct& product) {
  for (int64_t k = 0; k < product.columns; k += product.flush) {
    const int64_t pairs = std::min(product.flush, product.columns - k) / 2;
    const uint8_t* weights = product.panel + k / 2 * 64;
    const uint8_t* input = product.input + k / 2 * kTokens * 4;
    __m256i sum[kTokens][2];
    for (auto& each : sum) each[0] = each[1] = _mm256_setzero_si256();
    for (int64_t pair = 0; pair < pairs; ++pair, weights += 64, input += kTokens * 4) {
      const __m256i w0 = load256(weights), w1 = load256(weights + 32);
      for (int t = 0; t < kTokens; ++t) {
        int32_t two;
        std::memcpy(&two, input + 4 * t, sizeof two);
        const __m256i x = _mm256_set1_epi32(two);
        sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(w0, x));
        sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(w1, x));
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      const __m256 scale = _mm256_set1_ps(product.scale[k / 256 * kTokens + t]);
      for (int h = 0; h < 2; ++h) {
        float* sums = product.sums + t * kTileRows + 8 * h;
        _mm256_storeu_ps(sums, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][h]), scale, _mm256_loadu_ps(sums)));
      }
    }
  }
}

void multiply(TileElement element, const TileProduct& product) {
  TQ_CHECK(element == TileElement::kInt16);
  for_blocks(product, kTokens, multiply_block);
}

constexpr TileKernels kTable = {.tokens = kTokens,
                                .panels = 1,
                                .element = {TileElement::kInt16, TileElement::kInt16},
                                .decode = decode,
                                .pack = pack_lanes<kTokens>,
                                .multiply = multiply,
                                .write = write_rows,
                                .name = {"tiles avx2 i16", "tiles avx2 i16"}};

}  // namespace

const TileKernels& tile_kernels_avx2();
const TileKernels& tile_kernels_avx2() { return kTable; }

}  // namespace tq::cpu
#endif
