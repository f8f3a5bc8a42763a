// What the choice of the linears' bits will do: the rates that are tried, and on how much text.
#pragma once

#include <cstddef>
#include <vector>

#include "model/spec.h"
#include "quantize/options.h"

namespace tq {

constexpr int kLowestRate = 2;              // that a choice may give
constexpr size_t kTrialSequences = 2;       // of a demotion's measurement
constexpr int64_t kTrialStride = 4;         // every so many positions of them
constexpr size_t kAllocationHeldOut = 6;    // sequences of the guard
constexpr size_t kAllocationGuardRuns = 9;  // original and base twice; uniform, promotions, moves, ranges, priced again
constexpr size_t kMostRepricings = 1;       // of the moved model
constexpr double kLargeMove = 0.1;          // bits a weight, on the mean: less is not priced again

struct AllocationPlan {
  int base = 0;            // the whole part of the mean bits
  std::vector<int> rates;  // candidates of every linear, ascending
  size_t priced = 0;       // sequences that prices are made on
  size_t tried = 0;        // linears, or groups that a target ties, whose demotion is measured, at most
  size_t repricings = 0;   // at most
};
// sequences: of the calibration.
AllocationPlan allocation_plan(const ModelSpec& spec, const QuantizeOptions& options, size_t sequences);

// Multiply-adds of prices, demotions and guard, for sequences of `length` tokens; the candidates' rounding is not among them.
double allocation_operations(const ModelSpec& spec, const AllocationPlan& plan, double length);

}  // namespace tq
