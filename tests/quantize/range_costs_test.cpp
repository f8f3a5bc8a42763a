#include "quantize/range_costs.h"

#include <gtest/gtest.h>

#include <limits>

namespace tq {
namespace {

const Linear kLinear{.name = "a", .in = 8, .out = 128};  // 4 ranges
const Linear* const kLinears[] = {&kLinear};
const Groups kWhole = {{{0, 0}, {0, 1}, {0, 2}, {0, 3}}};

double sum(const std::vector<double>& values) {
  double out = 0;
  for (const double each : values) out += each;
  return out;
}

TEST(RangeCosts, AddUpToTheLinearsPriceAndAreSharedByCurvature) {
  const MovePrices prices = {{"a", {{4, {{-9, 1}, {5, 2}, {-1, 4}, {-3, 1}}}}}};
  const std::vector<Rates> standing = {Rates(4, 3)};
  const int rates[] = {3, 4};
  const RangeCosts costs = range_costs(kLinears, kWhole, prices, standing, rates);
  EXPECT_DOUBLE_EQ(sum(costs.at(4)[0]), -8 + 8);
  const MovePrices down = {{"a", {{4, {{-19, 1}, {5, 2}, {-1, 4}, {-3, 1}}}}}};
  const std::vector<double> shared = range_costs(kLinears, kWhole, down, standing, rates).at(4)[0];
  EXPECT_DOUBLE_EQ(sum(shared), -10);
  EXPECT_DOUBLE_EQ(shared[1], 2 * shared[0]) << "the first order of a few rows is that of one rounding alone";
  EXPECT_DOUBLE_EQ(shared[2], 4 * shared[0]);
  EXPECT_EQ(sum(costs.at(3)[0]), 0.0) << "staying costs nothing";
}

TEST(RangeCosts, RangesThatStandApartDoNotShare) {
  const MovePrices prices = {{"a", {{3, {{0, 0}, {0, 0}, {7, 1}, {2, 1}}}, {4, {{-3, 1}, {-5, 1}, {0, 0}, {0, 0}}}}}};
  const std::vector<Rates> standing = {{3, 3, 4, 4}};
  const int rates[] = {3, 4};
  const RangeCosts costs = range_costs(kLinears, kWhole, prices, standing, rates);
  EXPECT_EQ(costs.at(3)[0], (std::vector<double>{0, 0, 5.5, 5.5}));
  EXPECT_EQ(costs.at(4)[0], (std::vector<double>{-3, -3, 0, 0}));
}

TEST(RangeCosts, PartsOfALinearDoNotShare) {
  const MovePrices prices = {{"a", {{4, {{-3, 1}, {-5, 1}, {-1, 1}, {-1, 1}}}}}};
  const std::vector<Rates> standing = {Rates(4, 3)};
  const int rates[] = {3, 4};
  const Groups halves = {{{0, 0}, {0, 1}}, {{0, 2}, {0, 3}}};
  EXPECT_EQ(range_costs(kLinears, halves, prices, standing, rates).at(4)[0], (std::vector<double>{-3, -3, 0, 0}));
}

TEST(RangeCosts, MeasuredCostsReplaceThePrices) {
  RangeCosts costs = {{2, {{1, 2, 3, 4}, {2, -1}}}};
  const std::vector<Range> both = {{0, 0}, {0, 1}, {0, 2}, {0, 3}, {1, 0}, {1, 1}};
  set_cost(costs, 2, both, 24);
  EXPECT_EQ(costs.at(2)[0], (std::vector<double>{2, 4, 6, 8}));
  EXPECT_EQ(costs.at(2)[1], (std::vector<double>{4, 0}));
  set_cost(costs, 2, std::span(both).first(4), std::numeric_limits<double>::infinity());
  EXPECT_EQ(costs.at(2)[0][3], std::numeric_limits<double>::infinity());
  EXPECT_EQ(costs.at(2)[1][0], 4);
}

TEST(RangeCosts, CurvatureIsThatOfAWeight) {
  const Linear ragged{.name = "b", .in = 4, .out = 48};  // 32 and 16 rows
  const Linear* const linears[] = {&ragged};
  const MovePrices prices = {{"b", {{4, {{-9, 256}, {5, 64}}}}}};
  EXPECT_EQ(range_curvature(linears, prices, 4)[0], (std::vector<double>{2, 1}));
}

}  // namespace
}  // namespace tq
