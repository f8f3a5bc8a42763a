// AND and sdot. Both operands are signed, so that bit 7 counts as -128: its sums are negated.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "codec/grid/layout.h"
#include "kernels/cpu/plane/product.h"

namespace tq::cpu {
namespace {

constexpr int64_t kLinesPerGroup = kGroupColumns / grid::kLineColumns;

template <int kBit>
void store(int32x4_t sum, float scale, float* z) {
  int32x4_t exact = kBit == 7 ? vnegq_s32(sum) : sum;
  if constexpr (kBit > 0) exact = vshrq_n_s32(exact, kBit);
  vst1q_f32(z, vfmaq_n_f32(vld1q_f32(z), vcvtq_f32_s32(exact), scale));
}

// A quarter of a line: lanes [4 quarter, 4 quarter + 4) of all eight slices.
void add_quarter(const ProductArgs& args, int64_t block, int s, int quarter, int64_t first, int64_t lines, int64_t group) {
  const uint8_t* bits = args.bits + (block * args.lines + first) * grid::kLineBytes + quarter * 16;
  int32x4_t sum[8];
  for (int32x4_t& each : sum) each = vdupq_n_s32(0);
  for (int64_t line = 0; line < lines; ++line) {
    const uint8x16_t packed = vld1q_u8(bits + line * grid::kLineBytes);
    int32_t four;
    std::memcpy(&four, args.stream[s].values + (first + line) * 4, sizeof four);
    const int8x16_t value = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int j = 0; j < 8; ++j)
      sum[j] = vdotq_s32(sum[j], vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(static_cast<uint8_t>(1u << j)))), value);
  }
  const float scale = args.stream[s].scale[group];
  float* z = args.z[s] + block * grid::kLineRows + 4 * quarter;
  store<0>(sum[0], scale, z), store<1>(sum[1], scale, z + 16), store<2>(sum[2], scale, z + 32), store<3>(sum[3], scale, z + 48);
  store<4>(sum[4], scale, z + 64), store<5>(sum[5], scale, z + 80), store<6>(sum[6], scale, z + 96), store<7>(sum[7], scale, z + 112);
}

}  // namespace

void product_neon(const ProductArgs& args) {
  for (int64_t block = 0; block < args.blocks; ++block)
    for (int64_t first = 0, group = 0; first < args.lines; first += kLinesPerGroup, ++group)
      for (int s = 0; s < args.streams; ++s)
        for (int quarter = 0; quarter < 4; ++quarter)
          add_quarter(args, block, s, quarter, first, std::min(kLinesPerGroup, args.lines - first), group);
}

}  // namespace tq::cpu
#endif
