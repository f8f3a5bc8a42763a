// From prices of moves to what each range costs at each rate.
#pragma once

#include "quantize/allocate.h"
#include "quantize/sensitivity.h"

namespace tq {

// standing: the rates that the prices' base model has; 0 is the cost of staying. What all ranges of a part (of one linear) that stand alike
// cost together at a rate is the sum of their prices. Within it each has the share of its curvature: the first order of so few rows is that
// of this one rounding, while the curvature, how much their outputs change times what the loss feels there, is that of any. rates: those
// that prices has, and those that are stood at.
RangeCosts range_costs(std::span<const Linear* const> linears, const Groups& parts, const MovePrices& prices,
                       std::span<const Rates> standing, std::span<const int> rates);

// What a bit more or less matters in each range, for each weight, [linear][range]: the curvature of moving to `rate`.
std::vector<std::vector<double>> range_curvature(std::span<const Linear* const> linears, const MovePrices& prices, int rate);

// Replaces what ranges cost together at a rate by a measured cost, shared among them as before; infinite: not to be had.
void set_cost(RangeCosts& costs, int rate, std::span<const Range> ranges, double cost);

}  // namespace tq
