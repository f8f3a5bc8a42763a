// sdot of 8-bit weights and activations. Activations of 15 bits go the portable way.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels/cpu/tile/tile_common.h"

namespace tq::cpu {

const TileKernels& tile_kernels_generic();

namespace {

constexpr int kTokens = 4;  // as the portable kernel's

void multiply_bytes(const TileProduct& product) {
  for (int64_t k = 0; k < product.columns; k += product.flush) {
    const int64_t lines = std::min(product.flush, product.columns - k) / 4;
    const uint8_t* weights = product.panel + k / 4 * 64;
    const uint8_t* input = product.input + k / 4 * kTokens * 4;
    int32x4_t sum[kTokens][4];
    for (auto& token : sum)
      for (int32x4_t& each : token) each = vdupq_n_s32(0);
    for (int64_t line = 0; line < lines; ++line, weights += 64, input += kTokens * 4) {
      const int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(input));
      for (int quarter = 0; quarter < 4; ++quarter) {
        // Stored plus 128.
        const int8x16_t w = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(weights + 16 * quarter), vdupq_n_u8(0x80)));
        sum[0][quarter] = vdotq_laneq_s32(sum[0][quarter], w, x, 0);
        sum[1][quarter] = vdotq_laneq_s32(sum[1][quarter], w, x, 1);
        sum[2][quarter] = vdotq_laneq_s32(sum[2][quarter], w, x, 2);
        sum[3][quarter] = vdotq_laneq_s32(sum[3][quarter], w, x, 3);
      }
    }
    for (int t = 0; t < kTokens; ++t)
      for (int quarter = 0; quarter < 4; ++quarter) {
        float* sums = product.sums + t * kTileRows + 4 * quarter;
        vst1q_f32(sums, vfmaq_n_f32(vld1q_f32(sums), vcvtq_f32_s32(sum[t][quarter]), product.scale[k / 256 * kTokens + t]));
      }
  }
}

void decode(const TileSource& source, TileElement element, uint8_t* panels, int64_t panel_bytes) {
  tile_kernels_generic().decode(source, element, panels, panel_bytes);
}

void multiply(TileElement element, const TileProduct& product) {
  if (element == TileElement::kInt8) for_blocks(product, kTokens, multiply_bytes);
  else tile_kernels_generic().multiply(element, product);
}

constexpr TileKernels kTable = {.tokens = kTokens,
                                .panels = 1,
                                .element = {TileElement::kInt8, TileElement::kInt16},
                                .decode = decode,
                                .pack = pack_lanes<kTokens>,
                                .multiply = multiply,
                                .write = write_rows,
                                .name = {"tiles neon sdot i8", "tiles generic i16"}};

}  // namespace

const TileKernels& tile_kernels_neon();
const TileKernels& tile_kernels_neon() { return kTable; }

}  // namespace tq::cpu
#endif
