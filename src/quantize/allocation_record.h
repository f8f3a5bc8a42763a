// The choice of an allocation as a step of the job.
#pragma once

#include <vector>

#include "quantize/job_folder.h"

namespace tq {

struct ChosenRates {
  std::vector<Rates> rates;  // of the linears, in the plan's order
  AllocationFacts facts;
};

bool has_allocation(const JobFolder& folder);
Status save_allocation(JobFolder& folder, const QuantizePlan& plan, const ChosenRates& chosen);
// Sets the plan's rates and facts from a finished allocation, if the folder has one.
Status load_allocation(const Model& model, const JobFolder& folder, QuantizePlan& plan);

}  // namespace tq
