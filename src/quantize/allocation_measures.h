// What allocation measures: candidates, prices of moves, demotions, and on held-out text whole allocations; all but the last as steps of
// the job.
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
  // The model with every linear at the base rate.
  const Model& base() const { return candidates_.at(own_.base); }
  std::vector<Rates> at_base() const;
  // The model with these rates of its linears.
  Model moved(const std::vector<Rates>& rates) const;

  // Of moving everything from where it stands in a model to each candidate. round: of pricing; in the first, base() stands.
  Result<MovePrices> prices(const Model& standing, size_t round);
  // The changes of the KL when each group alone goes from the base rate to another.
  Result<std::vector<double>> demotion_costs(const Groups& groups, int rate);
  // The KL of each model with these rates, on held-out text.
  Result<std::vector<double>> held_out_divergences(const std::vector<std::vector<Rates>>& rates);

 private:
  Status measure_prices(const Model& standing, const std::string& step, bool has_base);
  std::string trial_step(const std::vector<Range>& group, int rate) const;
  std::vector<Rates> demoted(const std::vector<Range>& group, int rate) const;
  // The first layer that has another rate than the base's, the number of layers where none has.
  int64_t first_changed(const std::vector<Rates>& rates) const;
  Status measure_demotions(const Groups& groups, int rate);
  Result<double> demotion_cost(const std::vector<Range>& group, int rate) const;
  std::map<std::string, PackedTensor> changed_tensors(const std::vector<Rates>& rates) const;
  Result<std::vector<double>> divergences(Trials& trials, std::span<const std::vector<Rates>> rates) const;

  const AllocationRequest& request_;
  const AllocationPlan& own_;
  const std::vector<const Linear*>& linears_;
  Backend& backend_;
  const Context& context_;
  JobFolder& folder_;
  Candidates candidates_;
};

}  // namespace tq
