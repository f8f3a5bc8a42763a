#include "quantize/allocation_plan.h"

#include <algorithm>
#include <cmath>

#include "artifact/model.h"
#include "codec/grid/grid.h"

namespace tq {
namespace {

constexpr size_t kPricedShare = 6;                    // prices are made on a sixth of the calibration sequences,
constexpr size_t kLeastPriced = 4, kMostPriced = 32;  // within these bounds
constexpr size_t kTrialShare = 4;                     // at most a quarter of the linears are tried at a lower rate

}  // namespace

AllocationPlan allocation_plan(const ModelSpec& spec, const QuantizeOptions& options, size_t sequences) {
  AllocationPlan plan;
  plan.base = static_cast<int>(std::floor(options.bits + 1e-9));
  for (int rate = std::max(kLowestRate, plan.base - 1); rate <= std::min(plan.base + 2, grid::kMaxRate); ++rate) plan.rates.push_back(rate);
  plan.priced = std::min(sequences, std::clamp(sequences / kPricedShare, kLeastPriced, kMostPriced));
  plan.repricings = kMostRepricings;
  if (plan.rates.front() < plan.base) plan.tried = std::max<size_t>(1, ties(rated_linears(spec), options.target).size() / kTrialShare);
  return plan;
}

double allocation_operations(const ModelSpec& spec, const AllocationPlan& plan, double length) {
  const auto weights = static_cast<double>(count_weights(spec).linears);
  const double head = static_cast<double>(spec.head.in) * static_cast<double>(spec.head.out);
  // Original and base forward, the base again for its gradients, these, and each linear's product by every candidate, in a moved model by
  // the base's too. Heads: both, and back.
  const auto rounds = static_cast<double>(1 + plan.repricings), again = static_cast<double>(plan.repricings);
  const double passes = rounds * (4 + static_cast<double>(plan.rates.size())) + again;
  const double prices = static_cast<double>(plan.priced) * length * (passes * weights + rounds * 3 * head);
  // From the changed layer on: half of the model on average.
  const double trial = static_cast<double>(kTrialSequences) * length * (0.5 * weights + 2 * head / static_cast<double>(kTrialStride));
  const double guard =
      static_cast<double>(kAllocationHeldOut * kAllocationGuardRuns) * length * (weights + head / static_cast<double>(kTrialStride));
  return prices + static_cast<double>(plan.tried) * trial + guard;
}

}  // namespace tq
