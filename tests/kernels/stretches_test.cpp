#include "kernels/cuda/encode/stretches.h"

#include <gtest/gtest.h>

namespace tq::cuda {
namespace {

// Rows of a ring that some run of the stretches writes, and how often.
std::vector<int> written(const Runs& runs, int32_t rows) {
  std::vector<int> times(static_cast<size_t>(rows));
  for (const Run& run : runs.stretches)
    for (int32_t i = run.keep_begin; i < run.keep_end; ++i) ++times[static_cast<size_t>((run.first + i + rows) % rows)];
  return times;
}

TEST(Stretches, EveryRowOfARingIsWrittenByOne) {
  for (const int32_t rows : {64, 100, 172, 896, 1024, 4864, 18944})
    for (const int state_bits : {6, 8, 9, 10, 12})
      for (const int64_t stretch : {least_stretch(state_bits), int64_t{160}, kMostStretch}) {
        Runs runs{stretch, least_stretch(state_bits)};
        runs.add(0, rows);
        EXPECT_EQ(written(runs, rows), std::vector<int>(static_cast<size_t>(rows), 1))
            << rows << " rows, " << state_bits << " bits, " << stretch;
      }
}

TEST(Stretches, OfTheChosenLengthFitARun) {
  for (const int64_t rows : {64, 100, 896, 4864, 29568})
    for (const int state_bits : {6, 8, 9, 10, 12}) {
      SearchCost cost{state_bits, 132, std::vector<int32_t>(kTrellisRates)};
      cost.rows_of_rate[3] = rows;
      Runs runs{cost.choose_stretch(std::span(&rows, 1)), least_stretch(state_bits)};
      runs.add(0, static_cast<int32_t>(rows));
      for (const auto& run : runs.stretches) EXPECT_LE(run.steps, kMostSteps) << rows << " rows, " << state_bits << " bits";
      for (const auto& run : runs.junctions) EXPECT_GE(run.steps, 2) << rows << " rows, " << state_bits << " bits";
    }
}

// A card with few rows to search takes shorter stretches, of which more stand side by side.
TEST(Stretches, OfFewRowsAreShorterThanOfMany) {
  const std::vector<int64_t> few = {896}, many(64, 4864);
  SearchCost cost{12, 132, std::vector<int32_t>(kTrellisRates)};
  cost.rows_of_rate[3] = 1;
  EXPECT_LT(cost.choose_stretch(few), cost.choose_stretch(many));
}

TEST(Stretches, AThreadBlockHasBetweenOneWarpAndAThousandThreads) {
  for (const int state_bits : {6, 8, 9, 10, 12})
    for (const int own : {kFewStates, kManyStates}) {
      const int threads = (1 << state_bits) / states_of_thread(state_bits, own);
      EXPECT_GE(threads, 32) << state_bits;
      EXPECT_LE(threads, 1024) << state_bits;
    }
}

}  // namespace
}  // namespace tq::cuda
