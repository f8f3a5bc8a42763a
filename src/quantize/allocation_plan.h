// What the choice of the linears' bits will do: the rates that are tried, and on how much text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/spec.h"
#include "quantize/options.h"

namespace tq {

constexpr int64_t kTrialStride = 4;        // every so many positions of a measurement
constexpr int64_t kTogetherTokens = 2048;  // of short sequences, that take a layer of a measurement together
constexpr size_t kAllocationHeldOut = 6;   // of the calibration's sequences, which the guard has
constexpr double kLargeMove = 0.1;         // bits a weight, on the mean: less is not gone through again

struct AllocationPlan {
  int base = 0;                   // the whole part of the mean bits
  std::vector<int> rates;         // candidates of every linear, ascending
  int standing = 0;               // of the model that tells what they cost
  size_t candidates = 0;          // whole sequences that these are rounded by: all where tokens are weighted, as the weights are of all
  int64_t length = 0;             // tokens of a sequence in what follows; 0: of the calibration's
  size_t priced = 0;              // sequences that costs are taken on
  size_t held_out = 0;            // sequences of the guard, at most
  int64_t stride = kTrialStride;  // of its positions
  size_t repricings = 0;          // of the moved model, at most
};
// No more of anything than the text has. sequences: of the calibration, of the length that the options and the model's context give.
AllocationPlan allocation_plan(const ModelSpec& spec, const QuantizeOptions& options, size_t sequences);

// Multiply-adds of costs and guard, for calibration sequences of `length` tokens; what the candidates take is not among them.
double allocation_operations(const ModelSpec& spec, const AllocationPlan& plan, double length);

}  // namespace tq
