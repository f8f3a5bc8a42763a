#include "quantize/allocate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"

namespace tq {
namespace {

struct Problem {
  std::vector<Linear> linears;
  std::vector<const Linear*> pointers() const {
    std::vector<const Linear*> out;
    for (const Linear& linear : linears) out.push_back(&linear);
    return out;
  }
};

double mean_rate(const Problem& problem, const std::vector<Rates>& rates) {
  double bits = 0, weights = 0;
  for (size_t l = 0; l < rates.size(); ++l)
    for (size_t i = 0; i < rates[l].size(); ++i) {
      const auto row = static_cast<int64_t>(i) * 32;
      const auto here = static_cast<double>(std::min<int64_t>(32, problem.linears[l].out - row) * problem.linears[l].in);
      weights += here, bits += here * rates[l][i];
    }
  return bits / weights;
}

// Costs that fall fourfold with each bit, of random size, as those of rounding do.
std::vector<Unit> random_units(const Problem& problem, uint64_t seed) {
  Rng rng(seed);
  std::vector<Unit> units;
  for (size_t l = 0; l < problem.linears.size(); ++l) {
    const double scale = std::exp(2 * rng.gaussian());
    Unit unit{.linear = l, .ranges = (problem.linears[l].out + 31) / 32, .choices = {}};
    for (int rate = 2; rate <= 5; ++rate) unit.choices.push_back({rate, scale * (std::pow(4.0, -rate) - std::pow(4.0, -3))});
    units.push_back(unit);
  }
  return units;
}

double cost_of(const std::vector<Unit>& units, const std::vector<size_t>& chosen) {
  double sum = 0;
  for (size_t i = 0; i < units.size(); ++i) sum += units[i].choices[chosen[i]].cost;
  return sum;
}

TEST(Allocate, NoChoiceOfWholeUnitsIsCheaperWithinTheBudget) {
  Problem problem;
  for (int i = 0; i < 6; ++i) problem.linears.push_back({.name = std::to_string(i), .in = 16 + 8 * i, .out = 64 + 32 * (i % 3)});
  const auto pointers = problem.pointers();
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<Unit> units = random_units(problem, seed);
    const double bits = 2.5 + 0.1 * static_cast<double>(seed);
    const Allocation allocation = allocate(pointers, units, bits);
    EXPECT_LE(mean_rate(problem, allocation.rates), bits * (1 + 1e-9));
    EXPECT_NEAR(mean_rate(problem, allocation.rates), allocation.bits, 1e-9);
    double best = 1e9;
    std::vector<size_t> chosen(units.size());
    for (int code = 0; code < 1 << (2 * 6); ++code) {
      double spent = 0, weights = 0;
      for (size_t i = 0; i < units.size(); ++i) {
        chosen[i] = static_cast<size_t>(code >> (2 * i)) & 3;
        const auto size = static_cast<double>(problem.linears[i].in * problem.linears[i].out);
        spent += size * units[i].choices[chosen[i]].rate, weights += size;
      }
      if (spent <= bits * weights) best = std::min(best, cost_of(units, chosen));
    }
    // Of whole units the hull's choice may be a little dearer than the best; what it lacks is less than its last step.
    double last_step = 0;
    for (const Unit& unit : units) last_step = std::max(last_step, unit.choices[0].cost - unit.choices[1].cost);
    EXPECT_LE(allocation.cost, best + last_step) << seed;
  }
}

TEST(Allocate, SpendsTheBudgetToLessThanOneRange) {
  Problem problem;
  for (int i = 0; i < 9; ++i) problem.linears.push_back({.name = std::to_string(i), .in = 32, .out = 320});
  const auto pointers = problem.pointers();
  for (const double bits : {2.03, 3.0, 3.217, 4.9}) {
    const Allocation allocation = allocate(pointers, random_units(problem, 7), bits);
    EXPECT_LE(allocation.bits, bits * (1 + 1e-9));
    EXPECT_GT(allocation.bits, bits - 2.0 / 90) << "a range is a ninetieth of the weights, a step at most two bits";
  }
}

TEST(Allocate, AHigherPriceNeverGetsFewerBits) {
  Problem problem;
  for (int i = 0; i < 8; ++i) problem.linears.push_back({.name = std::to_string(i), .in = 64, .out = 64});
  const auto pointers = problem.pointers();
  std::vector<Unit> units = random_units(problem, 3);
  const Allocation before = allocate(pointers, units, 3.0);
  for (Choice& choice : units[4].choices) choice.cost *= 50;
  const Allocation after = allocate(pointers, units, 3.0);
  EXPECT_GE(after.rates[4], before.rates[4]);
}

TEST(Allocate, ARateThatGainsNothingIsSkipped) {
  Problem problem;
  problem.linears.push_back({.name = "a", .in = 8, .out = 32});
  const auto pointers = problem.pointers();
  const std::vector<Unit> units = {{.linear = 0, .ranges = 1, .choices = {{2, 0.5}, {3, 0.6}, {4, 0.1}, {5, 0.2}}}};
  EXPECT_EQ(allocate(pointers, units, 8.0).rates[0], Rates{4});
  EXPECT_EQ(allocate(pointers, units, 3.5).rates[0], Rates{2}) << "3 bits are worse than 2, and 4 do not fit";
  EXPECT_EQ(allocate(pointers, units, 1.0).rates[0], Rates{2}) << "the lowest, whatever the budget";
}

TEST(Units, AddUpThePricesOfTheirRanges) {
  const Linear linear{.name = "a", .in = 8, .out = 100};  // 4 ranges
  const std::vector<const Linear*> pointers = {&linear};
  const std::vector<PricedRate> priced = {{4, {{-1, -2, -3, -4}}}, {2, {{1, 2, 3, 5}}}};
  const std::vector<Unit> whole = make_units(pointers, priced, 3, 0);
  ASSERT_EQ(whole.size(), 1u);
  ASSERT_EQ(whole[0].choices.size(), 3u);
  EXPECT_EQ(whole[0].choices[0].rate, 2);
  EXPECT_EQ(whole[0].choices[0].cost, 11.0);
  EXPECT_EQ(whole[0].choices[1].cost, 0.0);
  EXPECT_EQ(whole[0].choices[2].cost, -10.0);
  const std::vector<Unit> parts = make_units(pointers, priced, 3, 3);
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].choices[2].cost, -6.0);
  EXPECT_EQ(parts[1].ranges, 1);
  EXPECT_EQ(parts[1].choices[0].cost, 5.0);
}

}  // namespace
}  // namespace tq
