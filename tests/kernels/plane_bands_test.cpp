// How products with decoded bands are shared out on a card, and where their halves lie; needs none.
#include <gtest/gtest.h>

#include <set>

#include "base/rng.h"
#include "kernels/cuda/plane_plan.h"

namespace tq::cuda {
namespace {

constexpr int kCard = 132;  // multiprocessors

TEST(PlaneBands, HalvesOfAGroupAreAllUsedOnce) {
  for (const int form : {32, 64, 96, 128}) {
    std::set<int> halves;
    for (int column = 0; column < kGroupColumns; ++column)
      for (int token = 0; token < form; ++token) halves.insert(band_half(form, column, token));
    EXPECT_EQ(static_cast<int>(halves.size()), 2 * band_group_words(form));
    EXPECT_EQ(*halves.rbegin() + 1, 2 * band_group_words(form));
  }
}

// Two neighbouring lanes of the rounding trade their halves and store both as a word.
TEST(PlaneBands, ColumnsSixteenApartShareAWord) {
  for (int column = 0; column < kGroupColumns; ++column)
    if (column % 32 < 16) {
      EXPECT_EQ(band_half(64, column, 5) % 2, 0);
      EXPECT_EQ(band_half(64, column + 16, 5), band_half(64, column, 5) + 1);
    }
}

struct Matrix {
  int rows = 0;
  std::vector<uint8_t> rates;
  std::vector<int32_t> order;  // of bands, if they have one
  RowShape shape() const { return {.rows = rows, .rate = rates.data(), .band_order = order.empty() ? nullptr : order.data()}; }
};

Matrix random_matrix(Rng& rng, bool is_uniform) {
  Matrix matrix{.rows = kBandRows * (1 + static_cast<int>(rng.below(1500)))};
  const auto rate = static_cast<uint8_t>(1 + rng.below(kRates - 1));
  for (int row = 0; row < matrix.rows; row += kRangeRows)
    matrix.rates.push_back(is_uniform ? rate : static_cast<uint8_t>(1 + rng.below(kRates - 1)));
  return matrix;
}

// Every place falls to one thread block, each has some, and none has more sets than it keeps.
TEST(PlaneBands, EverythingIsSharedOut) {
  Rng rng(1);
  for (int turn = 0; turn < 300; ++turn) {
    const Matrix matrices[] = {random_matrix(rng, turn % 2 == 0), random_matrix(rng, turn % 3 == 0)};
    const RowShape shapes[] = {matrices[0].shape(), matrices[1].shape()};
    const int jobs = 1 + static_cast<int>(rng.below(2)), columns = 8 * (1 + static_cast<int>(rng.below(2000)));
    BandSplit split;
    ASSERT_TRUE(split_bands(shapes, jobs, columns, band_form(1 + static_cast<int>(rng.below(kBandTokens))), kCard, split));
    int units = 0;
    for (int m = 0; m < jobs; ++m) units += (matrices[m].rows + kUnitRows - 1) / kUnitRows;
    EXPECT_EQ(split.sets, (units + kBandWorkers - 1) / kBandWorkers);
    EXPECT_LE(split.blocks, kCard);
    EXPECT_EQ(split.begin[0], 0);
    EXPECT_EQ(split.begin[split.blocks], split.sets * split.groups);
    for (int block = 0; block < split.blocks; ++block) {
      EXPECT_LT(split.begin[block], split.begin[block + 1]);
      EXPECT_LT((split.begin[block + 1] - 1) / split.groups - split.begin[block] / split.groups, kMostSets);
    }
    for (int set = 0; set < split.sets; ++set)
      for (int block = 0; block < split.blocks; ++block) {
        const bool has_part = split.begin[block] < (set + 1) * split.groups && split.begin[block + 1] > set * split.groups;
        if (!has_part) continue;
        const Range blocks = split.blocks_of(set, block);
        EXPECT_TRUE(split.begin[blocks.first] <= set * split.groups && split.begin[blocks.first + 1] > set * split.groups);
        const int last = blocks.first + blocks.count - 1;
        EXPECT_TRUE(split.begin[last] < (set + 1) * split.groups && split.begin[last + 1] >= (set + 1) * split.groups);
      }
  }
}

// Thread blocks have about as much work each: none more than two places above the mean.
TEST(PlaneBands, CostlyBandsAreSharedAmongMore) {
  Matrix matrix{.rows = 16384};
  for (int row = 0; row < matrix.rows; row += kRangeRows) matrix.rates.push_back(row < matrix.rows / 2 ? 2 : 8);
  const RowShape shape = matrix.shape();
  BandSplit split;
  ASSERT_TRUE(split_bands(&shape, 1, 4096, 64, kCard, split));
  const auto cost_of = [&](int place) { return kBandWorkers * unit_cost(shape, place / split.groups * kBandWorkers, 64); };
  double all = 0.0;
  for (int place = 0; place < split.sets * split.groups; ++place) all += cost_of(place);
  for (int block = 0; block < split.blocks; ++block) {
    double own = 0.0;
    for (int place = split.begin[block]; place < split.begin[block + 1]; ++place) own += cost_of(place);
    EXPECT_LT(own, all / split.blocks + 2 * cost_of(split.begin[block]));
  }
}

// Units of two rates cost both; in the order of the rates there are none.
TEST(PlaneBands, UnitsOfOneRateCostLess) {
  Matrix matrix{.rows = 4096};
  for (int row = 0; row < matrix.rows; row += kRangeRows) matrix.rates.push_back(row / kRangeRows % 2 ? 2 : 4);
  const auto costs = [&] {
    int all = 0;
    for (int unit = 0; unit < matrix.rows / kUnitRows; ++unit) all += unit_cost(matrix.shape(), unit, 64);
    return all;
  };
  const int mixed = costs();
  matrix.order = bands_by_rate(matrix.rates.data(), matrix.rows);
  EXPECT_EQ(2 * costs(), mixed);
}

// Every band of every matrix falls to one warp of one unit, which knows where its plane rows begin; bands of a rate stand together.
TEST(PlaneBands, BandsOfARateStandTogether) {
  Rng rng(3);
  for (int turn = 0; turn < 50; ++turn) {
    const Matrix matrices[] = {random_matrix(rng, false), random_matrix(rng, turn % 2 == 0)};
    PlaneJob jobs[kMaxJobs];
    std::vector<int32_t> newest[2], order[2];
    int units = 0;
    for (int m = 0; m < 2; ++m) {
      const Matrix& matrix = matrices[m];
      int planes = 0;
      for (size_t range = 0; range < matrix.rates.size(); ++range) {
        newest[m].push_back(planes + matrix.rates[range] - 1);
        planes += matrix.rates[range] * std::min(kRangeRows, matrix.rows - static_cast<int>(range) * kRangeRows);
      }
      if (m == 0) order[m] = bands_by_rate(matrix.rates.data(), matrix.rows);
      jobs[m].rows = matrix.rows, jobs[m].rate = matrix.rates.data(), jobs[m].newest = newest[m].data();
      jobs[m].band_order = order[m].empty() ? nullptr : order[m].data();
      units += jobs[m].unit_count();
    }
    std::set<std::pair<int, int>> rows;
    int uneven = 0;  // units of the first matrix with bands of two rates or more
    for (int unit = 0; unit < units; ++unit) {
      std::set<int> rates;
      for (int part = 0; part < kBandWarps; ++part) {
        const UnitBand band = find_band(jobs, 2, unit, part);
        if (band.rate == 0) continue;
        EXPECT_TRUE(rows.insert({band.job, band.row}).second);
        const Matrix& matrix = matrices[band.job];
        EXPECT_EQ(band.rate, matrix.rates[static_cast<size_t>(band.row / kRangeRows)]);
        int planes = 0;
        for (int row = 0; row < band.row; ++row) planes += matrix.rates[static_cast<size_t>(row / kRangeRows)];
        EXPECT_EQ(band.tile * kTileRows, planes);
        if (band.job == 0) rates.insert(band.rate);
      }
      uneven += rates.size() > 1;
    }
    EXPECT_EQ(static_cast<int>(rows.size()), (matrices[0].rows + matrices[1].rows) / kBandRows);
    EXPECT_LT(uneven, kRates);
    EXPECT_EQ(find_band(jobs, 2, units, 0).rate, 0);
  }
}

// A launch that a thread block would have too many sets of is refused.
TEST(PlaneBands, TooManySetsAreRefused) {
  Matrix matrix{.rows = kUnitRows * kBandWorkers * kMostSets * 3};
  matrix.rates.assign(static_cast<size_t>(matrix.rows / kRangeRows), 4);
  const RowShape shape = matrix.shape();
  BandSplit split;
  EXPECT_FALSE(split_bands(&shape, 1, 256, 64, 2, split));
  EXPECT_TRUE(split_bands(&shape, 1, 256, 64, 4, split));
}

}  // namespace
}  // namespace tq::cuda
