// Which row range gets how many bits, when what each costs at every rate is known.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "quantize/rates.h"
#include "quantize/target.h"

namespace tq {

// A rate that a unit may have, and what it costs, in nats a token.
struct Choice {
  int rate = 0;
  double cost = 0;
};

// 32 rows of one linear (of the stack, experts one after another).
struct Range {
  size_t linear = 0;  // in the list that is allocated
  int64_t range = 0;

  size_t place() const { return static_cast<size_t>(range); }
};

// Rows that move together.
struct Unit {
  std::vector<Range> ranges;
  std::vector<Choice> choices;  // ascending rates, at least one
  bool is_whole = false;        // never a part of it alone
};

struct Allocation {
  std::vector<Rates> rates;  // of the linears, as uniform_rates gives them
  double cost = 0;           // predicted, of what was chosen
  double bits = 0;           // mean over the weights
};

// The least cost whose mean rate over all weights does not exceed `bits`: the steps of each unit's lower convex hull in the order of gain
// a bit, which is what Lagrangian bisection finds. The last step that does not fit whole is taken for as many of its ranges as fit, if the
// unit may be divided, and then smaller ones, so that less than one range of 32 rows is left over wherever a further bit would gain.
// Where even the lowest rates exceed `bits`, those. The units hold every range of every linear once.
Allocation allocate(std::span<const Linear* const> linears, std::span<const Unit> units, double bits);

// What ranges cost at each rate: [rate][linear][range], in nats a token.
using RangeCosts = std::map<int, std::vector<std::vector<double>>>;

// How ranges are bound into units.
using Groups = std::vector<std::vector<Range>>;
// The linears, fused ones as what they are made of: query, key and value; gate and up. A range of 32 rows across a border is the first's.
Groups linear_parts(const ModelSpec& spec, std::span<const Linear* const> linears);
// What a target gives one rate, as ties says.
Groups tied_linears(std::span<const Linear* const> linears, Target target);
// Each of the parts in fours of ranges that are alike: neighbours when sorted by `order`, [linear][range], wherever they lie. Four, since a
// bit more for 128 rows fills whole lines of the file; what is left over joins the last four. Stacks of experts stay whole.
Groups alike_ranges(std::span<const Linear* const> linears, const Groups& parts, const std::vector<std::vector<double>>& order);

// is_whole: none may be divided; stacks of experts never are.
std::vector<Unit> make_units(std::span<const Linear* const> linears, const Groups& groups, const RangeCosts& costs, bool is_whole);

}  // namespace tq
