// How products with many tokens are shared out on a card; needs none.
#include <gtest/gtest.h>

#include <set>

#include "base/rng.h"
#include "kernels/cuda/plane_plan.h"

namespace tq::cuda {
namespace {

constexpr int kCard = 132;  // multiprocessors

TEST(PlaneMany, WordsOfAGroupAreAllUsedOnce) {
  for (const Form& form : {many_form(9, false), many_form(32, false), many_form(3, true), many_form(32, true)}) {
    std::set<int> words;
    for (int step = 0; step < 8; ++step)
      for (int half = 0; half < 2; ++half)
        for (int byte = 0; byte < form.bits / 8; ++byte)
          for (int token = 0; token < form.tokens; ++token)
            for (int t = 0; t < 4; ++t) words.insert(many_word(form, step, half, byte, token) + t);
    EXPECT_EQ(static_cast<int>(words.size()), many_group_words(form));
    EXPECT_EQ(*words.rbegin() + 1, many_group_words(form));
  }
}

TEST(PlaneMany, FormsAreTheSmallestThatHoldTheTokens) {
  for (int tokens = 1; tokens <= kManyTokens; ++tokens) {
    const Form form = many_form(tokens, false);
    EXPECT_TRUE(form.tokens >= tokens && (form.tokens == 16 || form.tokens / 2 < tokens)) << tokens;
    EXPECT_LE(many_form(tokens, true).tokens, kManyTokens);
  }
}

TEST(PlaneMany, WindowsReachNoFurtherThanTheTileBefore) {
  const auto fit = [](int rate, int window) {
    int windows[kRates] = {};
    windows[rate] = window;
    return many_windows(windows);
  };
  EXPECT_TRUE(fit(2, 17) && fit(3, 12) && fit(8, 16));
  EXPECT_FALSE(fit(2, 18) || fit(8, 18) || fit(1, 4));
}

// Every group has a slice that its activations fit, every row of tiles a worker, and no worker more rounds than are kept.
TEST(PlaneMany, EverythingIsSharedOut) {
  Rng rng(1);
  for (int turn = 0; turn < 500; ++turn) {
    const int columns = 8 * (1 + static_cast<int>(rng.below(4000))), rows = 8 * (1 + static_cast<int>(rng.below(8000)));
    const int tokens = 1 + static_cast<int>(rng.below(kManyTokens)), tiles = (rows * (2 + static_cast<int>(rng.below(7))) + 15) / 16;
    const bool has_pairs = rng.below(2) == 0;
    const ManyPlan plan = plan_many(columns, rows, tiles, (rows + 31) / 32, 1, tokens, has_pairs, false, kCard);
    const ManySplit& split = plan.split;
    EXPECT_LE(plan.blocks(), kCard);
    EXPECT_LE(split.most_groups() * many_group_words(plan.form), kManyWords);
    int groups = 0;
    for (int slice = 0; slice < split.slices; ++slice) {
      EXPECT_EQ(split.groups_of(slice).first, groups);
      EXPECT_LE(split.groups_of(slice).count, split.most_groups());
      groups += split.groups_of(slice).count;
    }
    EXPECT_EQ(groups, split.groups);
    EXPECT_EQ(split.first_tile(split.workers), tiles);
    for (int worker = 0; worker < split.workers; ++worker)
      EXPECT_LE(split.first_tile(worker + 1) - split.first_tile(worker) + 3, split.rounds * kManyTiles);  // with a halo
  }
}

// A part of a matrix has the slices of the whole, and so the same bits; without a batch's other tokens too.
TEST(PlaneMany, SlicesDependOnTheWholeMatrixAlone) {
  for (const int columns : {512, 4096, 14336})
    for (const int rows : {600, 4096, 28672}) {
      const auto slices = [&](int part, int tokens, bool is_invariant) {
        return plan_many(columns, rows, part / 4, (part + 31) / 32, 1, tokens, is_invariant, is_invariant, kCard).split.slices;
      };
      EXPECT_EQ(slices(rows, 24, false), slices(rows / 3, 24, false));
      for (const int tokens : {1, 5, 16}) EXPECT_EQ(slices(rows, tokens, true), slices(rows / 3, 32, true));
    }
}

}  // namespace
}  // namespace tq::cuda
