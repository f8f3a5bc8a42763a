#include "quantize/allocation_steps.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "codec/grid/layout.h"
#include "quantize/allocation_measures.h"
#include "quantize/budget.h"

namespace tq {
namespace {

// Proposes allocations, and chooses among them by what they measure.
class Allocating {
 public:
  Allocating(const AllocationRequest& request, Backend& backend, const Context& context, JobFolder& folder)
      : request_(request),
        backend_(backend),
        context_(context),
        own_(allocation_plan(request.model.spec, request.plan.options, request.sequences.size())),
        base_(own_.base),
        measures_(request, own_, linears_, backend, context, folder) {
    for (const auto& layer : request.plan.layers)
      for (const TensorPlan& tensor : layer) linears_.push_back(&tensor.linear), uniform_.push_back(tensor.rates);
    for (const Linear* linear : linears_) weights_ += weights_of(*linear);
    parts_ = linear_parts(request.model.spec, linears_);
    groups_ = is_tied() ? tied_linears(linears_, request.plan.options.target) : parts_;
  }

  Result<ChosenRates> run() {
    const std::optional<Network> original = keep_loaded(request_.model, backend_);
    TQ_TRY(measures_.make_candidates());
    {
      const Model& standing = measures_.at(own_.standing);
      const std::optional<Network> loaded = keep_loaded(standing, backend_);
      TQ_ASSIGN(costs_, measures_.costs(standing, 0));
    }
    alike_ = alike_ranges(linears_, parts_, costs_a_weight());
    propose(AllocationKind::kUniform, uniform_);
    propose(AllocationKind::kPromotions, within_limit(without_demotions(), groups_).rates);
    const Allocation moves = within_limit(costs_, groups_);
    propose(AllocationKind::kMoves, moves.rates);
    if (is_tied()) {
      out_.facts.ties = std::max(0.0, moves.cost - allocate(linears_, make_units(linears_, parts_, costs_, false), bits()).cost);
    } else {
      propose(AllocationKind::kRanges, within_limit(costs_, alike_).rates);
    }
    TQ_TRY(guard());
    TQ_TRY(reprice());
    if (proposals_.contains(AllocationKind::kRepriced)) TQ_TRY(guard());
    finish();
    return std::move(out_);
  }

 private:
  bool is_tied() const { return request_.plan.options.target != Target::kNone; }
  double bits() const { return request_.plan.options.bits; }

  void propose(AllocationKind kind, std::vector<Rates> rates) { proposals_[kind] = std::move(rates); }

  // What the base rate costs each range, for each weight, [linear][range].
  std::vector<std::vector<double>> costs_a_weight() const {
    std::vector<std::vector<double>> out = costs_.at(base_);
    for (size_t l = 0; l < linears_.size(); ++l)
      for (size_t i = 0; i < out[l].size(); ++i) out[l][i] /= weights_of(*linears_[l], static_cast<int64_t>(i));
    return out;
  }

  RangeCosts without_demotions() const {
    RangeCosts out = costs_;
    std::erase_if(out, [&](const auto& entry) { return entry.first < base_; });
    return out;
  }

  // The allocation for the plan's bits; for a little less where tensors of mixed sizes would be padded beyond what the files may take, or a
  // card's pages beyond its memory.
  Allocation within_limit(const RangeCosts& costs, const Groups& groups) const {
    const std::vector<Unit> units = make_units(linears_, groups, costs, is_tied());
    const QuantizeOptions& options = request_.plan.options;
    double bits = this->bits();
    while (true) {
      Allocation allocation = allocate(linears_, units, bits);
      if (options.byte_limit == 0 && !options.card) return allocation;
      QuantizePlan plan = request_.plan;
      set_rates(request_.model, plan, by_layer(allocation.rates));
      const uint64_t excess = excess_bytes(request_.model, plan);
      if (excess == 0 || bits < grid::kMinRate) return allocation;
      bits = std::min(bits, allocation.bits) - 8.0 * static_cast<double>(excess) / weights_;
    }
  }

  std::vector<std::vector<Rates>> by_layer(const std::vector<Rates>& rates) const {
    std::vector<std::vector<Rates>> out;
    size_t next = 0;
    for (const auto& layer : request_.plan.layers) {
      out.emplace_back();
      for (size_t i = 0; i < layer.size(); ++i) out.back().push_back(rates[next++]);
    }
    return out;
  }

  // Mean over the weights, in bits.
  double change(const std::vector<Rates>& from, const std::vector<Rates>& to) const {
    double sum = 0;
    for (size_t l = 0; l < linears_.size(); ++l)
      for (size_t i = 0; i < from[l].size(); ++i)
        sum += std::abs(from[l][i] - to[l][i]) * weights_of(*linears_[l], static_cast<int64_t>(i));
    return sum / weights_;
  }

  double measured(AllocationKind kind) const { return out_.facts.kl[static_cast<size_t>(kind)]; }

  // Takes costs again in the moved model, with a bit more everywhere as in the first round, and chooses again, as long as much is moved:
  // linears or ranges, what the guard found better.
  Status reprice() {
    const bool has_ranges = !is_tied() && measured(AllocationKind::kRanges) < measured(AllocationKind::kMoves);
    std::vector<Rates> before = measures_.at_base(),
                       standing = proposals_.at(has_ranges ? AllocationKind::kRanges : AllocationKind::kMoves);
    for (size_t round = 1; round <= own_.repricings && change(before, standing) >= kLargeMove; ++round) {
      const Model moved = measures_.moved(one_more(standing));
      const std::optional<Network> loaded = keep_loaded(moved, backend_);
      TQ_ASSIGN(const RangeCosts costs, measures_.costs(moved, round));
      before = std::exchange(standing, within_limit(costs, has_ranges ? alike_ : groups_).rates);
      propose(AllocationKind::kRepriced, standing);
    }
    return {};
  }

  std::vector<Rates> one_more(std::vector<Rates> rates) const {
    for (Rates& own : rates)
      for (uint8_t& rate : own) rate = static_cast<uint8_t>(std::min(rate + 1, own_.rates.back()));
    return rates;
  }

  // Measures what is not measured yet.
  Status guard() {
    const StageTimer timer(context_.times, "guard");
    std::vector<AllocationKind> kinds;
    std::vector<std::vector<Rates>> rates;
    for (const auto& [kind, proposed] : proposals_)
      if (!(measured(kind) > 0)) kinds.push_back(kind), rates.push_back(proposed);
    TQ_ASSIGN(const std::vector<double> found, measures_.held_out_divergences(rates));
    for (size_t i = 0; i < kinds.size(); ++i) out_.facts.kl[static_cast<size_t>(kinds[i])] = found[i];
    return {};
  }

  // The best of what is measured.
  void finish() {
    std::string note;
    for (const auto& [kind, rates] : proposals_) {
      if (measured(kind) < measured(out_.facts.chosen)) out_.facts.chosen = kind;
      note += fmt::format("{}{:.4f} {}", note.empty() ? "" : ", ", measured(kind), allocation_text(kind));
    }
    out_.rates = proposals_.at(out_.facts.chosen);
    context_.listener.note(fmt::format("rates: {} chosen; KL on held-out text {}", allocation_name(out_.facts.chosen), note));
  }

  const AllocationRequest& request_;
  Backend& backend_;
  const Context& context_;
  const AllocationPlan own_;
  const int base_;
  std::vector<const Linear*> linears_;
  std::vector<Rates> uniform_;
  double weights_ = 0;
  Groups parts_, groups_, alike_;  // of linears; what moves as one, these or what a target ties; ranges of rows that do
  AllocationMeasures measures_;
  RangeCosts costs_;  // of the first round
  std::map<AllocationKind, std::vector<Rates>> proposals_;
  ChosenRates out_;
};

}  // namespace

Status allocation_steps(const AllocationRequest& request, Backend& backend, const Context& context, JobFolder& folder, QuantizePlan& plan) {
  if (!has_allocation(folder)) {
    TQ_ASSIGN(const ChosenRates chosen, Allocating(request, backend, context, folder).run());
    TQ_TRY(save_allocation(folder, request.plan, chosen));
  }
  return load_allocation(request.model, folder, plan);
}

}  // namespace tq
