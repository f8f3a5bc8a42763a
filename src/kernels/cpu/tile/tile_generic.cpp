#include <cmath>

#include "base/check.h"
#include "kernels/cpu/tile/tile_common.h"

namespace tq::cpu {
namespace {

constexpr int kTokens = 4;

void store(TileElement element, uint8_t* panels, int64_t panel_bytes, int64_t row, int64_t column, int32_t value) {
  uint8_t* panel = panels + row / kPanelRows * panel_bytes;
  const int64_t lane = row % kPanelRows * 4;
  const int32_t high = (value + 16) >> 5;
  switch (element) {
    case TileElement::kInt8: panel[column / 4 * 64 + lane + column % 4] = static_cast<uint8_t>(high + 128); break;
    case TileElement::kSigned: panel[column / 4 * 64 + lane + column % 4] = static_cast<uint8_t>(high); break;
    case TileElement::kSplit:
      panel[column / 4 * 128 + lane + column % 4] = static_cast<uint8_t>(high);
      panel[column / 4 * 128 + 64 + lane + column % 4] = static_cast<uint8_t>(value - high * 32);
      break;
    case TileElement::kInt16: {
      const auto word = static_cast<int16_t>(value);
      std::memcpy(panel + column / 2 * 64 + lane + column % 2 * 2, &word, 2);
    }
  }
}

void decode(const TileSource& source, TileElement element, uint8_t* panels, int64_t panel_bytes) {
  const TapTable& taps = *source.taps;
  const NibbleRange range(source);
  uint8_t nibbles[kMostNibbles][32];
  for (int64_t line = source.first_line; line < source.end_line; line += 8) {
    fill_nibbles(source, range, line, nibbles);
    for (int64_t row = 0; row < kTileRows; ++row) {
      const int64_t oldest = range.start + row * taps.rate, first = floor_of_4(oldest) - range.first, place = oldest & 3;
      for (int64_t k = 0; k < kTileColumns; ++k) {
        int32_t value = 0;
        if (row < source.rows)
          for (int i = 0; i < taps.nibbles[place]; ++i) {
            const uint8_t index = nibbles[first + i][k];
            value += taps.low[place][i][index] + 32 * taps.high[place][i][index];
          }
        store(element, panels, panel_bytes, row, 4 * (line - source.first_line) + k, value);
      }
    }
  }
}

void multiply_block(const TileProduct& product) {
  const auto* weights = reinterpret_cast<const int16_t*>(product.panel);
  const auto* input = reinterpret_cast<const int16_t*>(product.input);
  for (int64_t k = 0; k < product.columns; k += product.flush) {
    int32_t sum[kTokens][kPanelRows] = {};
    const int64_t end = std::min(product.columns, k + product.flush);
    for (int64_t pair = k / 2; pair < end / 2; ++pair)
      for (int t = 0; t < kTokens; ++t) {
        const int32_t a = input[(pair * kTokens + t) * 2], b = input[(pair * kTokens + t) * 2 + 1];
        for (int64_t r = 0; r < kPanelRows; ++r)
          sum[t][r] += weights[(pair * kPanelRows + r) * 2] * a + weights[(pair * kPanelRows + r) * 2 + 1] * b;
      }
    for (int t = 0; t < kTokens; ++t)
      for (int64_t r = 0; r < kPanelRows; ++r)
        product.sums[t * kTileRows + r] += static_cast<float>(sum[t][r]) * product.scale[k / 256 * kTokens + t];
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
                                .name = {"tiles generic i16", "tiles generic i16"}};

}  // namespace

TapTable make_tap_table(const grid::Taps& taps, int64_t rate) {
  TapTable table{.rate = static_cast<int>(rate), .window = static_cast<int>(taps.size())};
  double most = 0;
  for (const float tap : taps) most += std::fabs(tap);
  // Each look-up rounds once, so that a sum may exceed the exact one by half a unit a group.
  const double inverse = most > 0 ? (kLargestWeight - kMaxNibbles) / most : 0;
  table.unit = most > 0 ? static_cast<float>(1 / inverse) : 0.0f;
  for (int place = 0; place < 4; ++place) {
    table.nibbles[place] = (place + table.window + 3) / 4;
    for (int i = 0; i < table.nibbles[place]; ++i)
      for (int index = 0; index < 16; ++index) {
        double value = 0;
        for (int b = 0; b < 4; ++b) {
          const int age = 4 * i + b - place;  // 0: the oldest bit of the window
          if (age < 0 || age >= table.window) continue;
          const double tap = taps[static_cast<size_t>(table.window - 1 - age)];
          value += index >> b & 1 ? tap : -tap;
        }
        const auto whole = static_cast<int>(std::lrint(value * inverse));
        const int low = ((whole + 16) & 31) - 16;
        table.low[place][i][index] = static_cast<int8_t>(low);
        table.high[place][i][index] = static_cast<int8_t>((whole - low) / 32);
      }
  }
  return table;
}

const TileKernels& tile_kernels_generic();
const TileKernels& tile_kernels_generic() { return kTable; }

#if defined(__aarch64__)
const TileKernels& tile_kernels_neon();
#endif
#if defined(__x86_64__)
const TileKernels& tile_kernels_avx2();
const TileKernels& tile_kernels_avx512();
const TileKernels& tile_kernels_amx();
#endif

const TileKernels& tile_kernels(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return tile_kernels_avx2();
    case Isa::kAvx512:
    case Isa::kAvx512Bf16: return tile_kernels_avx512();
    case Isa::kAmx: return tile_kernels_amx();
#endif
#if defined(__aarch64__)
    case Isa::kNeon: return tile_kernels_neon();
#endif
    default: return kTable;
  }
}

}  // namespace tq::cpu
