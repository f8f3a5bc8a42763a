// The rows of a Viterbi run as the device takes them, thread by thread, against a search over whole windows; needs no device.
#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "kernels/cuda/encode/trellis_step.h"
#include "kernels/cuda/encode/trellis_tables.h"

namespace tq::cuda {
namespace {

struct Row {
  int rate;
  float target, root_weight;
};

std::vector<Row> random_rows(const std::vector<int>& rates, int count, Rng& rng) {
  std::vector<Row> rows;
  for (int i = 0; i < count; ++i)
    rows.push_back({rates[static_cast<size_t>(i / 5) % rates.size()], static_cast<float>(4 * rng.uniform() - 2),
                    rng.below(9) == 0 ? -1.0f : static_cast<float>(0.5 + rng.uniform())});
  return rows;
}

RoundBatch batch_of(const std::vector<std::pair<int, int>>& windows, std::vector<uint8_t>& rates, Rng& rng) {
  RoundBatch batch;
  for (const auto& [rate, window] : windows) {
    rates.push_back(static_cast<uint8_t>(rate));
    for (int j = 0; j < window; ++j) batch.taps[rate].push_back(static_cast<float>((rng.uniform() - 0.5) * std::exp2(-j / 6.0)));
  }
  batch.matrices.push_back({.rows = static_cast<int64_t>(rates.size()), .rate = rates.data()});
  return batch;
}

double value_of(uint32_t window, const std::vector<float>& taps) {
  double sum = 0;
  for (size_t j = 0; j < taps.size(); ++j) sum += window >> j & 1 ? taps[j] : -taps[j];
  return sum;
}

double cost_of(const Row& row, uint32_t window, const std::vector<float>& taps) {
  if (row.root_weight < 0) return (window & ((1u << row.rate) - 1)) == 0 ? 0.0 : 1e30;
  const double error = static_cast<double>(row.root_weight) * (value_of(window, taps) - static_cast<double>(row.target));
  return error * error;
}

// The least cost of all strings, from any state.
double least_cost(const std::vector<Row>& rows, const RoundBatch& batch, int state_bits) {
  const uint32_t states = 1u << state_bits;
  std::vector<double> before(states), after(states);
  for (const Row& row : rows) {
    for (uint32_t s = 0; s < states; ++s) {
      after[s] = 1e30;
      for (uint32_t u = 0; u < 1u << row.rate; ++u)
        after[s] = std::min(after[s],
                            before[u << (state_bits - row.rate) | s >> row.rate] + cost_of(row, u << state_bits | s, batch.taps[row.rate]));
    }
    before.swap(after);
  }
  return *std::min_element(before.begin(), before.end());
}

// The cost of the string that the device's steps choose.
template <int kStateBits, int kOwn, int kDecisionBits>
double chosen_cost(const std::vector<Row>& rows, const RoundBatch& batch, const HostTrellis& trellis) {
  using Step = TrellisStep<kStateBits, kOwn>;
  std::vector<float> before(Step::kStates), after(Step::kStates), least(Step::kStates / 2);
  std::vector<std::vector<uint64_t>> decisions;
  for (const Row& each : rows) {
    const StepRow row{each.rate, trellis.merged[static_cast<size_t>(each.rate)], each.target, each.root_weight,
                      trellis.older.data() + (1 << each.rate)};
    if (row.merged > 0)
      for (int thread = 0; thread < Step::kThreads; ++thread) Step::merge(row.merged, before.data(), least.data(), thread);
    decisions.emplace_back();
    for (int thread = 0; thread < Step::kThreads; ++thread) {
      float newer[kOwn];
      for (int i = 0; i < kOwn; ++i) newer[i] = trellis.newer[static_cast<size_t>((row.rate << kStateBits) + thread * kOwn + i)];
      decisions.back().push_back(
          Step::template choose_any<kDecisionBits>(row, row.merged > 0 ? least.data() : before.data(), after.data(), newer, thread));
    }
    before.swap(after);
  }
  auto state = static_cast<uint32_t>(std::min_element(before.begin(), before.end()) - before.begin());
  double cost = 0;
  for (size_t i = rows.size(); i-- > 0;) {
    const uint64_t own = decisions[i][state / kOwn] >> kDecisionBits * (state % kOwn);
    const auto u = static_cast<uint32_t>(own & ((1u << kDecisionBits) - 1));
    EXPECT_LT(u, 1u << rows[i].rate);
    cost += cost_of(rows[i], u << kStateBits | state, batch.taps[rows[i].rate]);
    state = u << (kStateBits - rows[i].rate) | state >> rows[i].rate;
  }
  return cost;
}

struct Case {
  std::vector<std::pair<int, int>> windows;  // of the rates
  int state_bits;
};

template <int kStateBits, int kOwn>
void check(const Case& each, uint64_t seed) {
  Rng rng(seed);
  std::vector<uint8_t> used;
  const RoundBatch batch = batch_of(each.windows, used, rng);
  const HostTrellis trellis(batch);
  ASSERT_EQ(trellis.error, "");
  ASSERT_EQ(trellis.state_bits, each.state_bits);
  const std::vector<Row> rows = random_rows({used.begin(), used.end()}, 40, rng);
  const double found =
      trellis.is_wide ? chosen_cost<kStateBits, kOwn, 8>(rows, batch, trellis) : chosen_cost<kStateBits, kOwn, 4>(rows, batch, trellis);
  const double best = least_cost(rows, batch, each.state_bits);
  EXPECT_GE(found, best * (1 - 1e-6));
  EXPECT_LE(found, best * (1 + 1e-3)) << each.state_bits << " " << kOwn << " " << each.windows[0].first;
}

TEST(TrellisStep, ChoosesTheBestStringWhateverIsSettledFirst) {
  const Case small[] = {{{{3, 9}, {4, 10}, {5, 8}, {6, 8}}, 6},
                        {{{4, 10}}, 6},
                        {{{1, 1}}, 6},
                        {{{1, 5}, {2, 8}}, 6},
                        {{{1, 7}, {3, 9}}, 6},
                        {{{6, 8}}, 6},
                        {{{5, 9}, {3, 8}}, 6}};
  const Case middle[] = {{{{2, 10}, {3, 9}, {4, 10}, {5, 8}}, 8}, {{{4, 12}, {5, 12}, {6, 10}}, 8},        {{{2, 10}}, 8},
                         {{{2, 9}, {8, 9}, {7, 9}}, 8},           {{{1, 1}, {2, 10}, {3, 9}, {4, 10}}, 8}, {{{1, 9}, {2, 10}}, 8}};
  const Case odd[] = {{{{3, 12}, {4, 12}, {5, 12}, {6, 10}}, 9}, {{{2, 11}, {3, 12}}, 9}};
  const Case large[] = {
      {{{2, 12}, {3, 12}, {4, 12}, {5, 12}}, 10}, {{{2, 12}, {6, 10}, {8, 10}}, 10}, {{{1, 1}, {2, 12}, {3, 12}, {4, 12}}, 10}};
  for (uint64_t seed = 0; seed < 3; ++seed) {
    for (const Case& each : small) check<6, 2>(each, seed);
    for (const Case& each : middle) check<8, 2>(each, seed), check<8, 8>(each, seed);
    for (const Case& each : odd) check<9, 2>(each, seed), check<9, 8>(each, seed);
    for (const Case& each : large) check<10, 2>(each, seed), check<10, 8>(each, seed);
  }
}

TEST(TrellisStep, ChoosesAmongAllBitsOfLongWindows) {
  const Case each{{{2, 14}, {3, 15}, {4, 16}}, 12};
  check<12, 4>(each, 1), check<12, 8>(each, 1);
  const Case low{{{1, 1}, {2, 14}, {3, 15}}, 12};
  check<12, 4>(low, 1), check<12, 8>(low, 1);
  check<8, 8>({{{8, 16}}, 8}, 1);
}

}  // namespace
}  // namespace tq::cuda
