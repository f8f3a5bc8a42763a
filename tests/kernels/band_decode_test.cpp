// What the fragments that decode bands on tensor cores hold; needs no card.
#include "kernels/cuda/band_decode.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "base/rng.h"

namespace tq::cuda {
namespace {

// Eight rows' windows lie in the tiles that are multiplied for them, whatever the window.
TEST(BandDecode, WindowsLieInTheTilesThatAreTaken) {
  for (int rate = 1; rate < kRates; ++rate)
    for (int half = 0; half < 2; ++half) {
      const int first = band_first_tile(rate, half), last = first + band_taken_tiles(rate) - 1;
      EXPECT_LE(last, rate);
      for (int r = 8 * half; r < 8 * half + 8; ++r)
        for (int tile = 0; tile <= rate; ++tile)
          for (int row = 0; row < kTileRows; ++row) {
            const int tap = band_tap(rate, r, tile, row);
            if (tap >= 0 && tap < rate + kTileRows) EXPECT_TRUE(tile >= first && tile <= last) << rate << ' ' << r << ' ' << tile;
          }
    }
}

// A row's newest bit has tap 0, and each bit before it one more.
TEST(BandDecode, TapsCountBackFromTheNewestBit) {
  for (int rate = 1; rate < kRates; ++rate)
    for (int r = 0; r < kBandRows; ++r)
      for (int back = 0; back < rate + kTileRows; ++back) {
        const int plane = kTileRows + r * rate + rate - 1 - back;  // counted from the tile before the band's own
        EXPECT_EQ(band_tap(rate, r, plane / kTileRows, plane % kTileRows), back);
      }
}

// The words of a tile, transposed as movmatrix does it: an 8 x 8 of 16 bits, of which lane 4 g + t has row g, elements 2 t and 2 t + 1.
TEST(BandDecode, TurnedWordsHoldTwoPlaneRowsOfSixteenColumns) {
  Rng rng(5);
  std::vector<uint32_t> words(kTileBytes / 4);
  std::vector<std::vector<int>> bit(kTileRows, std::vector<int>(kGroupColumns));
  for (int row = 0; row < kTileRows; ++row)
    for (int k = 0; k < kGroupColumns; ++k) {
      bit[row][k] = static_cast<int>(rng.below(2));
      words[static_cast<size_t>(tile_word(row, k / 32))] |= static_cast<uint32_t>(bit[row][k]) << k % 32;
    }
  for (int part = 0; part < 4; ++part) {  // x, y, z, w of a lane's words
    const auto element = [&](int g, int i) { return words[static_cast<size_t>(4 * (4 * g + i / 2) + part)] >> 16 * (i % 2) & 0xffffu; };
    for (int g = 0; g < 8; ++g)
      for (int t = 0; t < 4; ++t) {
        const uint32_t turned = element(2 * t, g) | element(2 * t + 1, g) << 16;
        for (int b = 0; b < 32; ++b)
          EXPECT_EQ(static_cast<int>(turned >> b & 1u), bit[2 * t + b / 16 + 8 * (part % 2)][band_column(part / 2, g, b % 16)]);
      }
  }
}

// Runs of 8 columns stay together and fill the row; where a warp's lanes have two of them each, the first ones of all come first.
TEST(BandDecode, HalvesFillTheirRows) {
  for (const int columns : {8, 40, 44, 64, 128, 144, 200, 576, 896, 4096}) {
    std::vector<int> column_of(static_cast<size_t>(columns), -1);
    for (int column = 0; column < columns; ++column) {
      const int place = half_place(column, columns);
      ASSERT_TRUE(place >= 0 && place < columns) << columns << " " << column;
      EXPECT_EQ(std::exchange(column_of[static_cast<size_t>(place)], column), -1) << columns << " " << column;
      if (columns % 8 == 0) EXPECT_EQ(place, half_place(column / 8 * 8, columns) + column % 8) << columns << " " << column;
    }
  }
  for (int g = 0; g < 8; ++g)
    for (int part = 0; part < 2; ++part)
      EXPECT_EQ(half_place(band_column(1, g, 8 * part), 4096), band_column(1, 0, 0) + 64 * part + 8 * g) << g << " " << part;
}

// Where activations lie, in the order in which decoded columns come: step by step those with bits 2 j and 2 j + 1.
TEST(BandDecode, ActivationsLieAsColumnsAreDecoded) {
  for (int half = 0; half < 2; ++half)
    for (int bit = 0; bit < 16; ++bit)
      for (int g = 0; g < 8; ++g) {
        const BandPlace place = band_place(band_column(half, g, bit));
        EXPECT_EQ(place.step, 8 * half + bit / 2);
        EXPECT_EQ(place.half, bit % 2);
        EXPECT_EQ(place.at, g);
        EXPECT_EQ(band_exponent(band_column(half, g, bit)), 10 - bit % 8);
      }
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
  job.rows = 64, job.takes_bands = false;
  EXPECT_FALSE(has_bands(job));
}

TEST(BandDecode, TapsThatAreNoHalvesAreRefused) {
  EXPECT_TRUE(are_half_taps(std::vector<float>{0.9f, -0.01f}));
  EXPECT_TRUE(are_half_taps(std::vector<float>{3.9f}));
  EXPECT_FALSE(are_half_taps(std::vector<float>{0.5f, -4.0f}));
  EXPECT_FALSE(are_half_taps(std::vector<float>{0.1f}));
  EXPECT_FALSE(are_half_taps(std::vector<float>{}));
}

}  // namespace
}  // namespace tq::cuda
