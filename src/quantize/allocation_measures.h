// What allocation measures: candidates, what ranges of rows cost at each rate, and on held-out text whole allocations; all but the last as
// steps of the job.
#pragma once

#include <string>
#include <vector>

#include "quantize/allocate.h"
#include "quantize/allocation_plan.h"
#include "quantize/allocation_steps.h"
#include "quantize/sensitivity.h"
#include "quantize/trials.h"

namespace tq {

class AllocationMeasures {
 public:
  // linears: those of the request's plan, in order. All of them are to outlive the object.
  AllocationMeasures(const AllocationRequest& request, const AllocationPlan& own, const std::vector<const Linear*>& linears,
                     Backend& backend, const Context& context, JobFolder& folder)
      : request_(request), own_(own), linears_(linears), backend_(backend), context_(context), folder_(folder) {}

  // Before anything else.
  Status make_candidates();
  // The model with every linear at one of the plan's rates.
  const Model& at(int rate) const { return candidates_.at(rate); }
  std::vector<Rates> at_base() const;
  // The model with these rates of its linears.
  Model moved(const std::vector<Rates>& rates) const;

  // What every range costs at each rate, by the inputs and the curvature of a model. round: of pricing.
  Result<RangeCosts> costs(const Model& standing, size_t round);
  // The KL of each model with these rates, on held-out text.
  Result<std::vector<double>> held_out_divergences(const std::vector<std::vector<Rates>>& rates);

 private:
  Status measure_costs(const Model& standing, const std::string& step);
  // The first layer that has another rate than the base's, the number of layers where none has.
  int64_t first_changed(const std::vector<Rates>& rates) const;
  std::map<std::string, PackedTensor> changed_tensors(const std::vector<Rates>& rates) const;
  Result<double> divergence(Trials& trials, const std::vector<Rates>& rates) const;

  const AllocationRequest& request_;
  const AllocationPlan& own_;
  const std::vector<const Linear*>& linears_;
  Backend& backend_;
  const Context& context_;
  JobFolder& folder_;
  Candidates candidates_;
};

}  // namespace tq
