// How rows of outputs are shared out among thread blocks of a card; needs none.
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "base/rng.h"
#include "kernels/cuda/plane_plan.h"

namespace tq::cuda {
namespace {

// Matrices of random shapes with the same input.
struct Matrices {
  PlaneRowsArgs args;
  std::vector<std::vector<uint8_t>> rate;
  std::vector<std::vector<int32_t>> newest;
  RowShape shapes[kMaxJobs];

  Matrices(Rng& rng, int slices) {
    args.jobs = 1 + static_cast<int>(rng.below(3));
    args.groups = slices + static_cast<int>(rng.below(60));
    rate.resize(static_cast<size_t>(args.jobs)), newest.resize(static_cast<size_t>(args.jobs));
    for (int m = 0; m < args.jobs; ++m) add(rng, m);
  }
  void add(Rng& rng, int m) {
    auto& rates = rate[static_cast<size_t>(m)];
    auto& first = newest[static_cast<size_t>(m)];
    PlaneJob& job = args.job[m];
    job.rows = 8 * (1 + static_cast<int>(rng.below(rng.below(3) == 0 ? 25 : 1200)));
    const auto least = 2 + rng.below(3), kinds = 1 + rng.below(4);
    for (int row = 0; row < job.rows; row += kRangeRows) {
      const int k = static_cast<int>(least + rng.below(kinds));
      rates.push_back(static_cast<uint8_t>(k)), first.push_back(job.plane_rows + k - 1);
      job.plane_rows += k * std::min(kRangeRows, job.rows - row);
    }
    for (int k = 1; k < kRates; ++k) job.windows[k] = 8 + static_cast<int>(rng.below(static_cast<uint64_t>(kMaxTaps) - 7));
    shapes[m] = {job.rows, job.plane_rows, rates.data(), first.data(), job.windows};
  }
};

// The plane rows of the ring that a thread block has for its window, in order; -1: none.
std::vector<int> window_of(const OwnShare& share, const PlaneJob& job) {
  std::vector<int> window(static_cast<size_t>(share.planes), -1);
  for (int row = 0; row < share.tiles * kTileRows; ++row) {
    const int tile = share.tile(row / kTileRows);
    EXPECT_TRUE(tile >= 0 && tile < job.tile_count());
    int plane = 0;
    if (!share.plane_of(row, job.plane_rows, plane)) continue;
    const int i = plane - share.begin;
    if (i >= 0 && i < share.planes) window[static_cast<size_t>(i)] = tile * kTileRows + row % kTileRows;
  }
  return window;
}

// Taps of a thread block's rows that are not where they should be.
int64_t missing_taps(const Matrices& matrices, const OwnShare& share) {
  const PlaneJob& job = matrices.args.job[share.index];
  const std::vector<int> window = window_of(share, job);
  int64_t missing = 0;
  for (int row = share.first_row; row < share.first_row + share.rows; ++row) {
    const auto range = static_cast<size_t>(row / kRangeRows), m = static_cast<size_t>(share.index);
    const int rate = matrices.rate[m][range], newest = matrices.newest[m][range] + row % kRangeRows * rate;
    for (int j = 0; j < job.windows[rate]; ++j) {
      const int i = newest - j - share.begin;
      const bool is_there = i >= 0 && i < share.planes && window[static_cast<size_t>(i)] == (newest - j + job.plane_rows) % job.plane_rows;
      missing += !is_there;
    }
  }
  return missing;
}

TEST(PlaneRows, EveryRowHasOneOwnerAndItsWholeWindow) {
  Rng rng(1);
  int shared = 0;
  for (int turn = 0; turn < 300; ++turn) {
    const int slices = 1 << rng.below(4), blocks = 132 - static_cast<int>(rng.below(60));
    Matrices matrices(rng, slices);
    Owners& owners = matrices.args.owners;
    if (!share_rows(matrices.shapes, matrices.args.jobs, slices, blocks, owners)) continue;
    ++shared;
    const int count = owners.first[matrices.args.jobs];
    ASSERT_TRUE(count <= blocks && count % slices == 0);
    std::vector<int> rows(static_cast<size_t>(matrices.args.jobs));
    for (int block = 0; block < count; ++block) {
      const OwnShare share(matrices.args, block, 0);
      EXPECT_EQ(share.first_row, rows[static_cast<size_t>(share.index)]) << "in order, without gaps";
      rows[static_cast<size_t>(share.index)] += share.rows;
      EXPECT_TRUE(share.rows > 0 && share.rows <= owners.most_rows && share.planes <= owners.most_planes);
      EXPECT_EQ(missing_taps(matrices, share), 0) << turn << " " << block;
    }
    for (int m = 0; m < matrices.args.jobs; ++m) EXPECT_EQ(rows[static_cast<size_t>(m)], matrices.args.job[m].rows);
  }
  EXPECT_GT(shared, 200);
}

TEST(PlaneRows, WhatIsTooSmallIsNotShared) {
  const uint8_t rate = 2;
  const int32_t newest = 1;
  int windows[kRates] = {};
  windows[2] = 12;
  Owners owners;
  const RowShape shape{8, 16, &rate, &newest, windows};
  EXPECT_FALSE(share_rows(&shape, 1, 1, 132, owners)) << "windows longer than the ring";
  const RowShape wider{16, 32, &rate, &newest, windows};
  EXPECT_TRUE(share_rows(&wider, 1, 1, 132, owners));
  EXPECT_FALSE(share_rows(&wider, 1, 2, 132, owners)) << "fewer rows than thread blocks of a cluster";
}

// 16 groups of columns, one a warp, are rounded by every thread block; twice to four times as many by two; more are not owned.
TEST(PlaneRows, NoMoreThanTwoThreadBlocksShareColumns) {
  const std::vector<uint8_t> rate(128, 3);
  std::vector<int32_t> newest;
  for (int range = 0; range < 128; ++range) newest.push_back(range * kRangeRows * 3 + 2);
  int windows[kRates] = {};
  windows[3] = 12;
  const RowShape shape{4096, 4096 * 3, rate.data(), newest.data(), windows};
  for (const auto& [groups, slices] : {std::pair(1, 1), {16, 1}, {17, 2}, {64, 2}, {65, 0}}) {
    Owners owners;
    EXPECT_EQ(plan_rows(&shape, 1, groups, 132, owners), slices > 0) << groups;
    if (slices > 0) EXPECT_EQ(owners.slices, slices) << groups;
  }
}

TEST(PlaneRows, PartsHaveTheBoundsOfTheWhole) {
  int windows[kRates] = {};
  windows[4] = 12;
  for (const int rows : {4096, 28672, 128256}) {
    const std::vector<uint8_t> rate(static_cast<size_t>(rows / kRangeRows), 4);
    std::vector<int32_t> newest;
    for (int range = 0; range < rows / kRangeRows; ++range) newest.push_back(range * kRangeRows * 4 + 3);
    Owners whole;
    const RowShape shape{rows, rows * 4, rate.data(), newest.data(), windows};
    ASSERT_TRUE(plan_rows(&shape, 1, 32, 132, whole));
    EXPECT_TRUE(whole.most_rows <= whole.bound_rows && whole.most_planes <= whole.bound_planes) << rows;
    for (const int parts : {2, 4}) {
      Owners own;
      const RowShape part{rows / parts, rows / parts * 4 + 9, rate.data(), newest.data(), windows, rows};
      ASSERT_TRUE(plan_rows(&part, 1, 32, 132, own));
      EXPECT_TRUE(own.bound_rows == whole.bound_rows && own.bound_planes == whole.bound_planes) << rows << " / " << parts;
      EXPECT_TRUE(own.most_rows <= own.bound_rows && own.most_planes <= own.bound_planes) << rows << " / " << parts;
    }
  }
}

TEST(PlaneLinear, SlicesAreNoWiderThanSharedMemoryAllows) {
  for (const int columns : {576, 4096, 8192, 28672})
    for (const int tokens : {1, 2, 4, 8})
      for (const int most : {4, 8, 16, 32}) {
        const PlanePlan plan = plan_planes(columns, 400, tokens, 128, 0, most);
        int groups = 0;
        for (int slice = 0; slice < plan.split.slices; ++slice) {
          EXPECT_LE(plan.split.groups_of(slice).count, most) << columns << " " << tokens;
          groups += plan.split.groups_of(slice).count;
        }
        EXPECT_EQ(groups, (columns + kGroupColumns - 1) / kGroupColumns);
        EXPECT_LE(plan.split.parts * plan.split.phases, kProductWarps);
      }
}

}  // namespace
}  // namespace tq::cuda
