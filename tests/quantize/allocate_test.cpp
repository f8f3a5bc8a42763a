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
    Unit unit{.ranges = {}, .choices = {}};
    for (int64_t i = 0; i < ranges_of(problem.linears[l]); ++i) unit.ranges.push_back({l, i});
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
  const std::vector<Unit> units = {{.ranges = {{0, 0}}, .choices = {{2, 0.5}, {3, 0.6}, {4, 0.1}, {5, 0.2}}}};
  EXPECT_EQ(allocate(pointers, units, 8.0).rates[0], Rates{4});
  EXPECT_EQ(allocate(pointers, units, 3.5).rates[0], Rates{2}) << "3 bits are worse than 2, and 4 do not fit";
  EXPECT_EQ(allocate(pointers, units, 1.0).rates[0], Rates{2}) << "the lowest, whatever the budget";
}

TEST(Allocate, AUnitThatIsWholeIsNeverDivided) {
  Problem problem;
  for (int i = 0; i < 5; ++i) problem.linears.push_back({.name = std::to_string(i), .in = 32, .out = 32 * (5 + i)});
  const auto pointers = problem.pointers();
  std::vector<Unit> units = random_units(problem, 5);
  for (Unit& unit : units) unit.is_whole = true;
  for (double bits = 2.0; bits < 5.0; bits += 0.07) {
    const Allocation allocation = allocate(pointers, units, bits);
    EXPECT_LE(allocation.bits, bits * (1 + 1e-9));
    for (const Rates& rates : allocation.rates) EXPECT_EQ(rates, Rates(rates.size(), rates[0]));
  }
}

// What finer units may do contains what coarser ones may.
TEST(Allocate, RangesOfRowsAreNeverDearerThanWholeLinears) {
  Problem problem;
  for (int i = 0; i < 6; ++i) problem.linears.push_back({.name = std::to_string(i), .in = 32, .out = 256});
  const auto pointers = problem.pointers();
  Rng rng(1);
  RangeCosts costs;
  std::vector<std::vector<double>> curvature(6);
  for (auto& linear : curvature)
    for (int i = 0; i < 8; ++i) linear.push_back(std::exp(1.5 * rng.gaussian()));
  for (int rate = 2; rate <= 5; ++rate)
    for (size_t l = 0; l < 6; ++l) {
      costs[rate].emplace_back();
      for (const double each : curvature[l]) costs[rate].back().push_back(each * (std::pow(4.0, -rate) - std::pow(4.0, -3)));
    }
  for (const double bits : {2.5, 3.0, 3.5}) {
    const Allocation whole = allocate(pointers, make_units(pointers, tied_linears(pointers, Target::kNone), costs, false), bits);
    const Allocation ranges = allocate(
        pointers, make_units(pointers, alike_ranges(pointers, tied_linears(pointers, Target::kNone), curvature), costs, false), bits);
    EXPECT_LT(ranges.cost, whole.cost);
    EXPECT_LE(ranges.bits, bits * (1 + 1e-9));
  }
}

// 128 rows at one rate fill whole lines.
TEST(Units, RangesThatAreAlikeGoInFours) {
  const Linear linear{.name = "a", .in = 8, .out = 310};  // 10 ranges
  const std::vector<const Linear*> pointers = {&linear};
  const Groups groups = alike_ranges(pointers, tied_linears(pointers, Target::kNone), {{1, 9, 2, 8, 3, 7, 4, 6, 5, 0}});
  ASSERT_EQ(groups.size(), 2u);
  std::vector<std::vector<int64_t>> places(2);
  for (size_t i = 0; i < 2; ++i)
    for (const Range& range : groups[i]) places[i].push_back(range.range);
  EXPECT_EQ(places[0], (std::vector<int64_t>{1, 3, 5, 7}));
  EXPECT_EQ(places[1], (std::vector<int64_t>{8, 6, 4, 2, 0, 9})) << "what is left over joins the last";
}

TEST(Units, FusedLinearsAreWhatTheyAreMadeOf) {
  ModelSpec spec;
  Attention attention{.qkv = {{.name = "qkv", .in = 8, .out = 64 + 2 * 48, .role = Role::kFusedQkv}},
                      .output = {.name = "o", .in = 64, .out = 8}};
  attention.heads = 4, attention.kv_heads = 3, attention.head_dim = 16;
  Mlp mlp;
  mlp.gate_up = {{.name = "gate_up", .in = 8, .out = 128, .role = Role::kFusedGateUp}};
  mlp.down = {.name = "down", .in = 64, .out = 8};
  spec.layers.push_back({{.pre = {}, .op = attention, .post = {}}, {.pre = {}, .op = mlp, .post = {}}});
  const std::vector<const Linear*> all = rated_linears(spec);
  std::vector<std::pair<size_t, size_t>> parts;  // linear, ranges
  for (const std::vector<Range>& part : linear_parts(spec, all)) parts.emplace_back(part[0].linear, part.size());
  // 64, 48 and 48 rows: the range across the border of key and value is the key's.
  EXPECT_EQ(parts, (std::vector<std::pair<size_t, size_t>>{{0, 2}, {0, 2}, {0, 1}, {1, 1}, {2, 2}, {2, 2}, {3, 1}}));
}

TEST(Units, ExpertsOfAProjectionStayTogether) {
  const Linear linear{.name = "m.experts.up", .in = 8, .out = 256, .experts = 3};
  const std::vector<const Linear*> pointers = {&linear};
  const Groups groups = alike_ranges(pointers, tied_linears(pointers, Target::kNone), {std::vector<double>(24, 1.0)});
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].size(), 24u);
  EXPECT_TRUE(make_units(pointers, groups, {{3, {std::vector<double>(24)}}}, false)[0].is_whole);
}

TEST(Units, AddUpTheCostsOfTheirRanges) {
  const Linear linear{.name = "a", .in = 8, .out = 100};  // 4 ranges
  const std::vector<const Linear*> pointers = {&linear};
  const RangeCosts costs = {{2, {{4, 8, 12, 20}}}, {3, {{1, 2, 3, 5}}}, {4, {{0, 0, 1, 1}}}};
  const std::vector<Unit> units = make_units(pointers, tied_linears(pointers, Target::kNone), costs, false);
  ASSERT_EQ(units.size(), 1u);
  ASSERT_EQ(units[0].choices.size(), 3u);
  EXPECT_EQ(units[0].choices[0].rate, 2);
  EXPECT_EQ(units[0].choices[0].cost, 44.0);
  EXPECT_EQ(units[0].choices[1].cost, 11.0);
  EXPECT_EQ(units[0].choices[2].cost, 2.0);
}

}  // namespace
}  // namespace tq
