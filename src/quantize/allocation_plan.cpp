#include "quantize/allocation_plan.h"

#include <algorithm>
#include <cmath>

#include "artifact/model.h"
#include "codec/grid/grid.h"

namespace tq {
namespace {

constexpr int kMostMore = 3;                          // bits above the base rate
constexpr size_t kPricedShare = 6;                    // costs are taken on a sixth of the calibration sequences,
constexpr size_t kLeastPriced = 4, kMostPriced = 32;  // within these bounds

// With few tokens: short sequences, which see more text.
constexpr int64_t kShortLength = 256, kShortStride = 2;
constexpr size_t kCandidateTokens = 2;  // for each priced one

// allowed, length: in tokens.
void limit_to(int64_t allowed, int64_t length, size_t sequences, AllocationPlan& plan) {
  plan.length = std::min(kShortLength, length);
  const auto tokens = static_cast<size_t>(allowed), whole = static_cast<size_t>(length);  // of which twice as many fit too
  const auto piece = static_cast<size_t>(plan.length);
  const size_t wanted = std::max<size_t>(1, tokens / piece), each = whole / piece;  // pieces, and those of a sequence
  plan.candidates = std::max<size_t>(1, std::min(kCandidateTokens * tokens / whole, sequences));
  plan.priced = std::min(wanted, sequences * each);
  plan.held_out = std::min(wanted, kAllocationHeldOut * each);
  plan.stride = kShortStride, plan.repricings = 0;
}

}  // namespace

AllocationPlan allocation_plan(const ModelSpec& spec, const QuantizeOptions& options, size_t sequences) {
  sequences = std::max<size_t>(1, sequences);
  AllocationPlan plan;
  plan.base = static_cast<int>(std::floor(options.bits + 1e-9));
  for (int rate = std::max(grid::kMinRate, plan.base - 1); rate <= std::min(plan.base + kMostMore, grid::kMaxRate); ++rate)
    plan.rates.push_back(rate);
  plan.standing = std::min(plan.base + 1, plan.rates.back());
  plan.priced = std::min(sequences, std::clamp(sequences / kPricedShare, kLeastPriced, kMostPriced));
  plan.candidates = sequences, plan.held_out = kAllocationHeldOut, plan.repricings = 1;
  if (options.allocate_tokens > 0) limit_to(options.allocate_tokens, std::min(options.sequence, spec.context), sequences, plan);
  if (uses_gradients(options)) plan.candidates = sequences;
  return plan;
}

double allocation_operations(const ModelSpec& spec, const AllocationPlan& plan, double length) {
  const auto weights = static_cast<double>(count_weights(spec).linears);
  const double head = static_cast<double>(spec.head.in) * static_cast<double>(spec.head.out);
  if (plan.length > 0) length = static_cast<double>(plan.length);
  // Forward, again layer by layer on the way back, the gradients of inputs, and each linear's product by the original and by every
  // candidate.
  const auto rounds = static_cast<double>(1 + plan.repricings), again = static_cast<double>(plan.repricings);
  const double passes = 4 + static_cast<double>(plan.rates.size());
  const double costs = rounds * static_cast<double>(plan.priced) * length * (passes * weights + 2 * head);
  // Original and base before each round; uniform, promotions, moves, ranges, and what is priced again.
  const double measured = 2 * head / static_cast<double>(plan.stride);
  const double guard = static_cast<double>(plan.held_out) * length * (rounds * 2 * weights + (4 + again) * (weights + measured));
  return costs + guard;
}

}  // namespace tq
