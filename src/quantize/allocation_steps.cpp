#include "quantize/allocation_steps.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "codec/grid/layout.h"
#include "quantize/allocation_measures.h"
#include "quantize/budget.h"
#include "quantize/range_costs.h"

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
        rates_(own_.rates),
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
      const std::optional<Network> loaded = keep_loaded(measures_.base(), backend_);
      TQ_TRY(price_base());
      TQ_TRY(try_demotions());
    }
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

  Status price_base() {
    TQ_ASSIGN(const MovePrices prices, measures_.prices(measures_.base(), 0));
    costs_ = range_costs(linears_, parts_, prices, measures_.at_base(), rates_);
    alike_ = alike_ranges(linears_, parts_, range_curvature(linears_, prices, rates_.back() > base_ ? base_ + 1 : base_ - 1));
    return {};
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

  // Measures the demotions that seem cheapest for what they save, in the base model; the others are given up.
  Status try_demotions() {
    const int lower = base_ - 1;
    if (!costs_.contains(lower)) return {};
    std::vector<size_t> order = by_cost_a_bit(lower);
    const size_t tried = std::min(order.size(), own_.tried);
    for (size_t i = tried; i < order.size(); ++i) set_cost(costs_, lower, groups_[order[i]], std::numeric_limits<double>::infinity());
    order.resize(tried);
    const Groups measured = taken_together(std::move(order));
    TQ_ASSIGN(const std::vector<double> costs, measures_.demotion_costs(measured, lower));
    for (size_t i = 0; i < measured.size(); ++i) set_cost(costs_, lower, measured[i], costs[i]);
    return {};
  }

  // The groups, by what moving them to a rate is predicted to cost for each bit.
  std::vector<size_t> by_cost_a_bit(int rate) const {
    std::vector<std::pair<double, size_t>> order;
    for (size_t i = 0; i < groups_.size(); ++i) {
      double cost = 0, weights = 0;
      for (const Range& range : groups_[i]) {
        cost += costs_.at(rate)[range.linear][range.place()];
        weights += weights_of(*linears_[range.linear], range.range);
      }
      order.emplace_back(cost / weights, i);
    }
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<size_t> out;
    for (const auto& [cost, group] : order) out.push_back(group);
    return out;
  }

  // What of these groups is measured in one go.
  Groups taken_together(std::vector<size_t> chosen) const {
    if (own_.together > 1) std::sort(chosen.begin(), chosen.end());  // neighbours, so that the later layers alone are run
    Groups out;
    for (size_t i = 0; i < chosen.size(); ++i) {
      if (i % own_.together == 0) out.emplace_back();
      out.back().insert(out.back().end(), groups_[chosen[i]].begin(), groups_[chosen[i]].end());
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

  // Prices again in the moved model and chooses again, as long as much is moved: linears or ranges, what the guard found better.
  Status reprice() {
    const bool has_ranges = !is_tied() && measured(AllocationKind::kRanges) < measured(AllocationKind::kMoves);
    std::vector<Rates> before = measures_.at_base(),
                       standing = proposals_.at(has_ranges ? AllocationKind::kRanges : AllocationKind::kMoves);
    for (size_t round = 1; round <= own_.repricings && change(before, standing) >= kLargeMove; ++round) {
      const Model moved = measures_.moved(standing);
      const std::optional<Network> loaded = keep_loaded(moved, backend_);
      TQ_ASSIGN(const MovePrices prices, measures_.prices(moved, round));
      const RangeCosts costs = with_demotions(range_costs(linears_, parts_, prices, standing, rates_), standing);
      before = std::exchange(standing, within_limit(costs, has_ranges ? alike_ : groups_).rates);
      propose(AllocationKind::kRepriced, standing);
    }
    return {};
  }

  // Below the base rate there is only what was measured: on the way there from the base rate.
  RangeCosts with_demotions(RangeCosts costs, const std::vector<Rates>& standing) const {
    const int lower = base_ - 1;
    if (!costs.contains(lower)) return costs;
    for (size_t l = 0; l < linears_.size(); ++l)
      for (size_t i = 0; i < standing[l].size(); ++i)
        if (standing[l][i] != lower) costs.at(lower)[l][i] = costs.at(base_)[l][i] + costs_.at(lower)[l][i];
    return costs;
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
  const std::vector<int> rates_;
  std::vector<const Linear*> linears_;
  std::vector<Rates> uniform_;
  double weights_ = 0;
  Groups parts_, groups_, alike_;  // of linears; what moves as one, these or what a target ties; ranges of rows that do
  AllocationMeasures measures_;
  RangeCosts costs_;  // in the base model
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
