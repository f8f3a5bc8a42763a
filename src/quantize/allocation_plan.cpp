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

AllocationPlan allocation_plan(const ModelSpec& spec, double bits, size_t sequences) {
  AllocationPlan plan;
  plan.base = static_cast<int>(std::floor(bits + 1e-9));
  for (int rate = std::max(kLowestRate, plan.base - 1); rate <= std::min(plan.base + 2, grid::kMaxRate); ++rate) plan.rates.push_back(rate);
  plan.priced = std::min(sequences, std::clamp(sequences / kPricedShare, kLeastPriced, kMostPriced));
  if (plan.rates.front() < plan.base) plan.tried = std::max<size_t>(1, linears(spec).size() / kTrialShare);
  return plan;
}

double allocation_operations(const ModelSpec& spec, const AllocationPlan& plan, double length) {
  const auto weights = static_cast<double>(count_weights(spec).linears);
  const double head = static_cast<double>(spec.head.in) * static_cast<double>(spec.head.out);
  // Original and base forward, the base again for its gradients, these, and each linear's product by every candidate. Heads: both, and
  // back.
  const double passes = 4 + static_cast<double>(plan.rates.size());
  const double prices = static_cast<double>(plan.priced) * length * (passes * weights + 3 * head);
  // From the changed layer on: half of the model on average.
  const double trial = static_cast<double>(kTrialSequences) * length * (0.5 * weights + 2 * head / static_cast<double>(kTrialStride));
  const double guard =
      static_cast<double>(kAllocationHeldOut * kAllocationGuardRuns) * length * (weights + head / static_cast<double>(kTrialStride));
  return prices + static_cast<double>(plan.tried) * trial + guard;
}

}  // namespace tq
