// Allocation as steps of a job: candidates, what they cost, the choice, and a guard that measures on text that the choice has not seen
// whether it helps.
#pragma once

#include <string>
#include <vector>

#include "quantize/allocation_record.h"
#include "quantize/candidates.h"

namespace tq {

struct AllocationRequest {
  const Model& model;
  const QuantizePlan& plan;
  std::span<const std::vector<TokenId>> sequences;  // calibration
  std::span<const std::vector<TokenId>> held_out;   // of the same kinds of text, of equal length
  const TokenWeights* weights = nullptr;
};

// Makes what the folder lacks of the steps, then sets the plan's rates and facts (load_allocation). Errors: those of candidate_steps, of
// rounding_costs, of Trials.
Status allocation_steps(const AllocationRequest& request, Backend& backend, const Context& context, JobFolder& folder, QuantizePlan& plan);

}  // namespace tq
