// The fragments that decode planes on tensor cores, put together as the instruction does it; needs no card.
#include "kernels/cuda/band_decode.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/float16.h"
#include "base/rng.h"

namespace tq::cuda {
namespace {

// One group of 256 columns of 16 rows whose windows lie in rate + 1 tiles.
struct Rows {
  int rate, window;
  std::vector<float> taps;
  std::vector<std::vector<int>> bit;  // [plane rows][256]
  std::vector<uint32_t> words;        // [tiles][128]

  Rows(Rng& rng, int rate_) : rate(rate_), window(rate_ + static_cast<int>(rng.below(kTileRows + 1))) {
    for (int j = 0; j < window; ++j) taps.push_back(static_cast<float>(rng.gaussian()));
    words.resize(static_cast<size_t>(rate + 1) * 128);
    for (int p = 0; p < (rate + 1) * kTileRows; ++p) {
      bit.emplace_back();
      for (int k = 0; k < kGroupColumns; ++k) {
        bit.back().push_back(static_cast<int>(rng.below(2)));
        const int word = p / kTileRows * 128 + tile_word(p % kTileRows, k / 32);
        words[static_cast<size_t>(word)] |= static_cast<uint32_t>(bit.back().back()) << k % 32;
      }
    }
  }
  double value(int r, int k) const {
    double sum = 0;
    const int newest = kTileRows + r * rate + rate - 1;
    for (int j = 0; j < window; ++j)
      sum +=
          bit[static_cast<size_t>(newest - j)][static_cast<size_t>(k)] != 0 ? taps[static_cast<size_t>(j)] : -taps[static_cast<size_t>(j)];
    return sum;
  }
  // What lane 4 g + t reads: words of plane rows row8 and row8 + 8, of word, word, word + 4, word + 4.
  const uint32_t* load(int step, int row8, int word) const { return &words[static_cast<size_t>(step * 128 + 4 * (4 * row8 + word))]; }
};

uint32_t paired_bytes(uint32_t a, uint32_t b, int g) { return (a >> (8 * (g / 2)) & 255u) << 8 | (b >> (8 * (g / 2)) & 255u) << 24; }

TEST(BandDecode, FragmentsMultiplyToTheRowsValues) {
  Rng rng(11);
  for (int rate = 1; rate < kRates; ++rate)
    for (int word = 0; word < 4; ++word) {
      const Rows rows(rng, rate);
      const int part = static_cast<int>(rng.below(2)), i = static_cast<int>(rng.below(4));
      double product[kBandRows][8] = {};
      for (int step = 0; step <= rate; ++step) {
        double b[16][8];
        for (int g = 0; g < 8; ++g)
          for (int t = 0; t < 4; ++t)
            for (int half = 0; half < 2; ++half) {
              const uint32_t* read = rows.load(step, t + 4 * half, word) + 2 * part;
              const uint32_t halves = band_halves(paired_bytes(read[0], read[1], g), i, g);
              b[2 * t + 8 * half][g] = f16_to_float(static_cast<uint16_t>(halves));
              b[2 * t + 8 * half + 1][g] = f16_to_float(static_cast<uint16_t>(halves >> 16));
            }
        for (int r = 0; r < kBandRows; ++r)
          for (int k = 0; k < 16; ++k) {
            const int tap = band_tap(rate, r, step, slot_row(k));
            if (tap < 0 || tap >= rows.window) continue;
            for (int n = 0; n < 8; ++n) product[r][n] += static_cast<double>(rows.taps[static_cast<size_t>(tap)]) * b[k][n];
          }
      }
      for (int r = 0; r < kBandRows; ++r)
        for (int n = 0; n < 8; ++n)
          EXPECT_NEAR(product[r][n], rows.value(r, 32 * (word + 4 * part) + band_column(i, n)), 1e-9) << rate << " " << r << " " << n;
    }
}

TEST(BandDecode, ALanesSumsAreEightColumnsInTurn) {
  for (int t = 0; t < 4; ++t)
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 2; ++j) EXPECT_EQ(band_column(i, 2 * t + j), 8 * t + 2 * i + j);
}

TEST(BandDecode, TakesWholeBandsWhoseWindowsReachOneTileBack) {
  PlaneJob job;
  job.rows = 64;
  for (int rate = 1; rate < kRates; ++rate) job.windows[rate] = rate + 16;
  EXPECT_TRUE(decodes_bands(job, 40, 16, 32));
  EXPECT_FALSE(decodes_bands(job, 44, 16, 32));
  EXPECT_FALSE(decodes_bands(job, 40, 8, 32));
  EXPECT_FALSE(decodes_bands(job, 40, 16, 20));
  job.windows[3] = 20;
  EXPECT_FALSE(decodes_bands(job, 40, 16, 32));
  job.windows[3] = 12, job.rows = 100;
  EXPECT_FALSE(decodes_bands(job, 40, 0, 96));
}

}  // namespace
}  // namespace tq::cuda
