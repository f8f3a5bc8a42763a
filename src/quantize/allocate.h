// Which row range gets how many bits, when every move has a price.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "quantize/rates.h"

namespace tq {

// A rate that a unit may have, and what it costs against the base rate (0 there), in nats a token.
struct Choice {
  int rate = 0;
  double cost = 0;
};

// Rows that move together: ranges of 32 rows of one linear (of the stack, experts one after another).
struct Unit {
  size_t linear = 0;                    // in the list that is allocated
  int64_t first_range = 0, ranges = 0;  // of 32 rows
  std::vector<Choice> choices;          // ascending rates, at least one
};

struct Allocation {
  std::vector<Rates> rates;  // of the linears, as uniform_rates gives them
  double cost = 0;           // predicted, of what was chosen
  double bits = 0;           // mean over the weights
};

// The least cost whose mean rate over all weights does not exceed `bits`: the steps of each unit's lower convex hull in the order of gain
// a bit, which is what Lagrangian bisection finds. The last step that does not fit whole is taken for as many of its ranges as fit, and
// then smaller ones, so that less than one range of 32 rows is left over wherever a further bit would gain.
// Where even the lowest rates exceed `bits`, those.
Allocation allocate(std::span<const Linear* const> linears, std::span<const Unit> units, double bits);

// One unit a linear, or its ranges in groups of `ranges`. price: of moving range i of linear l to a rate, by [l][i].
struct PricedRate {
  int rate = 0;
  std::vector<std::vector<double>> price;
};
std::vector<Unit> make_units(std::span<const Linear* const> linears, std::span<const PricedRate> rates, int base, int64_t ranges);

}  // namespace tq
