#include "quantize/allocation_steps.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "codec/mixed/mixed.h"
#include "quantize/allocation_plan.h"
#include "quantize/job.h"
#include "quantize/range_costs.h"
#include "quantize/trials.h"

namespace tq {
namespace {

constexpr const char* kStep = "allocation";
constexpr const char* kPrices = "prices";
constexpr const char* kChosen = "chosen";  // metadata of the step
constexpr const char* kTies = "ties";
constexpr const char* kCost = "cost";  // metadata of a trial

// Sequences spread evenly, cut to `length` tokens unless that is 0: then the parts of all of them count, so that few sequences give many.
std::vector<std::vector<TokenId>> spread(std::span<const std::vector<TokenId>> all, size_t count, int64_t length = 0) {
  std::vector<std::vector<TokenId>> out;
  const size_t own = all[0].size(), piece = length > 0 ? std::min(static_cast<size_t>(length), own) : own, each = own / piece;
  count = std::min(count, all.size() * each);
  for (size_t i = 0; i < count; ++i) {
    const size_t at = i * all.size() * each / count;
    const auto begin = all[at / each].begin() + static_cast<std::ptrdiff_t>(at % each * piece);
    out.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(piece));
  }
  return out;
}

// Demotions that are measured together have hidden states of their own meanwhile.
constexpr uint64_t kTrialBytes = uint64_t{512} << 20;

struct Chosen {
  std::vector<Rates> rates;  // of the linears
  AllocationFacts facts;
};

class Allocating {
 public:
  Allocating(const AllocationRequest& request, Backend& backend, const Context& context, JobFolder& folder)
      : request_(request),
        backend_(backend),
        context_(context),
        folder_(folder),
        own_(allocation_plan(request.model.spec, request.plan.options, request.sequences.size())),
        base_(own_.base),
        rates_(own_.rates) {
    for (const auto& layer : request.plan.layers)
      for (const TensorPlan& tensor : layer) linears_.push_back(&tensor.linear), uniform_.push_back(tensor.rates);
    for (const Linear* linear : linears_) weights_ += weights_of(*linear);
    parts_ = linear_parts(request.model.spec, linears_);
    groups_ = is_tied() ? tied_linears(linears_, request.plan.options.target) : parts_;
  }

  Result<Chosen> run() {
    const std::optional<Network> original = keep_loaded(request_.model, backend_);
    TQ_TRY(make_candidates());
    {
      const std::optional<Network> loaded = keep_loaded(base(), backend_);
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
  Status make_candidates() {
    const StageTimer timer(context_.times, "candidates");
    const size_t count = request_.weights ? request_.sequences.size() : own_.candidates;  // weights are those of all sequences
    const std::vector<std::vector<TokenId>> sequences = spread(request_.sequences, count);
    TQ_ASSIGN(candidates_,
              candidate_steps({request_.model, request_.plan, rates_, sequences, request_.weights}, backend_, context_, folder_));
    return {};
  }

  const Model& base() const { return candidates_.at(base_); }
  bool is_tied() const { return request_.plan.options.target != Target::kNone; }
  double bits() const { return request_.plan.options.bits; }

  void propose(AllocationKind kind, std::vector<Rates> rates) { proposals_[kind] = std::move(rates); }

  std::vector<Rates> at_base() const {
    std::vector<Rates> out;
    for (const Linear* linear : linears_) out.push_back(constant_rates(*linear, base_));
    return out;
  }

  Status price_base() {
    TQ_ASSIGN(const MovePrices prices, prices_at(base(), 0));
    costs_ = range_costs(linears_, parts_, prices, at_base(), rates_);
    alike_ = alike_ranges(linears_, parts_, range_curvature(linears_, prices, rates_.back() > base_ ? base_ + 1 : base_ - 1));
    return {};
  }

  // Prices of moving everything from where it stands in a model to each candidate; a step of its own.
  Result<MovePrices> prices_at(const Model& standing, size_t round) {
    const std::string step = fmt::format("{}-{}", kPrices, round);
    if (!folder_.has_step(step)) TQ_TRY(measure_prices(standing, step, round > 0));
    TQ_ASSIGN(const auto archive, folder_.open_step(step));
    std::map<std::string, TensorView> found;
    for (const auto& tensor : archive->tensors()) found[tensor.name] = tensor.view;
    MovePrices out;
    for (const Linear* linear : linears_)
      for (const int rate : rates_) {
        if (rate == base_ && round == 0) continue;
        const TensorView view = found[price_name(*linear, rate)];
        if (view.count() != 2 * ranges_of(*linear))
          return bad_input("an unfinished run lacks the prices of {}; remove it and begin again", linear->name);
        for (int64_t i = 0; i < view.count(); i += 2) out[linear->name][rate].push_back({view.as<float>()[i], view.as<float>()[i + 1]});
      }
    return out;
  }

  static std::string price_name(const Linear& linear, int rate) { return fmt::format("{}.{}", linear.name, rate); }

  Status measure_prices(const Model& standing, const std::string& step, bool has_base) {
    const StageTimer timer(context_.times, "prices");
    std::vector<std::pair<int, const Model*>> others;
    for (const auto& [rate, model] : candidates_)
      if (rate != base_ || has_base) others.emplace_back(rate, &model);
    const std::vector<std::vector<TokenId>> sequences = spread(request_.sequences, own_.priced, own_.length);
    TQ_ASSIGN(const Sensitivity sensitivity, price_moves(backend_, context_,
                                                         {.original = request_.model,
                                                          .base = standing,
                                                          .candidates = others,
                                                          .sequences = sequences,
                                                          .seed = request_.plan.options.seed}));
    std::map<std::string, std::vector<float>> values;  // first and second order of each range
    for (const Linear* linear : linears_)
      for (const auto& [rate, model] : others)
        for (const MovePrice& price : sensitivity.prices.at(linear->name).at(rate))
          for (const double part : {price.first, price.second}) values[price_name(*linear, rate)].push_back(static_cast<float>(part));
    std::vector<JobFolder::Array> arrays;
    for (const auto& [name, prices] : values)
      arrays.push_back({{name, DType::kF32, {static_cast<int64_t>(prices.size())}}, std::as_bytes(std::span<const float>(prices))});
    return folder_.save_step(step, arrays, {});
  }

  RangeCosts without_demotions() const {
    RangeCosts out = costs_;
    std::erase_if(out, [&](const auto& entry) { return entry.first < base_; });
    return out;
  }

  // The allocation for the plan's bits; for a little less where tensors of mixed sizes would be padded beyond the limit of bytes.
  Allocation within_limit(const RangeCosts& costs, const Groups& groups) const {
    const std::vector<Unit> units = make_units(linears_, groups, costs, is_tied());
    const uint64_t limit = request_.plan.options.byte_limit;
    double bits = this->bits();
    while (true) {
      Allocation allocation = allocate(linears_, units, bits);
      if (limit == 0) return allocation;
      QuantizePlan plan = request_.plan;
      set_rates(request_.model, plan, by_layer(allocation.rates));
      const uint64_t bytes = planned_bytes(request_.model, plan);
      if (bytes <= limit || bits < kLowestRate) return allocation;
      bits = std::min(bits, allocation.bits) - 8.0 * static_cast<double>(bytes - limit) / weights_;
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
    std::vector<std::pair<double, size_t>> order;  // predicted cost a bit
    for (size_t i = 0; i < groups_.size(); ++i) {
      double cost = 0, weights = 0;
      for (const Range& range : groups_[i]) {
        cost += costs_.at(lower)[range.linear][range.place()];
        weights += weights_of(*linears_[range.linear], range.range);
      }
      order.emplace_back(cost / weights, i);
    }
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const size_t tried = std::min(order.size(), own_.tried);
    for (size_t i = tried; i < order.size(); ++i)
      set_cost(costs_, lower, groups_[order[i].second], std::numeric_limits<double>::infinity());
    std::vector<size_t> chosen;
    for (size_t i = 0; i < tried; ++i) chosen.push_back(order[i].second);
    if (own_.together > 1) std::sort(chosen.begin(), chosen.end());  // neighbours, so that the later layers alone are run
    Groups measured;
    for (size_t i = 0; i < tried; ++i) {
      if (i % own_.together == 0) measured.emplace_back();
      measured.back().insert(measured.back().end(), groups_[chosen[i]].begin(), groups_[chosen[i]].end());
    }
    const StageTimer timer(context_.times, "demotions");
    TQ_TRY(measure_demotions(measured, lower));
    for (const std::vector<Range>& group : measured) {
      TQ_ASSIGN(const double cost, tried_cost(group, lower));
      set_cost(costs_, lower, group, cost);
    }
    return {};
  }

  std::string trial_step(const std::vector<Range>& group, int rate) const {
    return fmt::format("trial-{}.{}.{}", linears_[group[0].linear]->name, group[0].range, rate);
  }

  // The measured changes of the KL that are not known yet, each a step of its own.
  Status measure_demotions(const Groups& all, int rate) {
    Groups groups;
    for (const std::vector<Range>& group : all)
      if (!folder_.has_step(trial_step(group, rate))) groups.push_back(group);
    if (groups.empty()) return {};
    const std::vector<std::vector<TokenId>> sequences = spread(request_.sequences, own_.trial_sequences, own_.length);
    TQ_ASSIGN(Trials trials, Trials::create(request_.model, base(), backend_, context_, sequences, own_.stride));
    TQ_ASSIGN(const double before, trials.divergence({}));
    const size_t most = std::max<size_t>(1, kTrialBytes / trials.state_bytes());
    for (size_t first = 0; first < groups.size(); first += most) {
      const size_t count = std::min(most, groups.size() - first);
      std::vector<std::vector<Rates>> rates(count, at_base());
      for (size_t i = 0; i < count; ++i)
        for (const Range& range : groups[first + i]) rates[i][range.linear][range.place()] = static_cast<uint8_t>(rate);
      TQ_ASSIGN(const std::vector<double> after, divergences(trials, rates));
      for (size_t i = 0; i < count; ++i)
        TQ_TRY(folder_.save_step(trial_step(groups[first + i], rate), {}, {{kCost, fmt::format("{:.17g}", after[i] - before)}}));
      context_.listener.progress("demotions", static_cast<int64_t>(first + count), static_cast<int64_t>(groups.size()));
    }
    return {};
  }

  Result<double> tried_cost(const std::vector<Range>& group, int rate) const {
    TQ_ASSIGN(const auto archive, folder_.open_step(trial_step(group, rate)));
    const auto found = archive->metadata().find(kCost);
    if (found == archive->metadata().end())
      return bad_input("an unfinished run lacks the cost of {}; remove it and begin again", linears_[group[0].linear]->name);
    return std::strtod(found->second.c_str(), nullptr);
  }

  // The candidates' tensors, range by range as an allocation has them, where they differ from the base's.
  std::map<std::string, PackedTensor> tensors_of(const std::vector<Rates>& rates) const {
    std::map<std::string, PackedTensor> out;
    for (size_t l = 0; l < linears_.size(); ++l) {
      const std::string name = linears_[l]->name + ".weight";
      if (std::all_of(rates[l].begin(), rates[l].end(), [&](uint8_t rate) { return rate == rates[l][0]; })) {
        if (rates[l][0] != base_) out[name] = *candidates_.at(rates[l][0]).find(name);
        continue;
      }
      std::vector<const PackedTensor*> sources;
      for (const int rate : rates_) sources.push_back(candidates_.at(rate).find(name));
      std::vector<uint8_t> source;
      for (const uint8_t rate : rates[l])
        source.push_back(static_cast<uint8_t>(std::find(rates_.begin(), rates_.end(), rate) - rates_.begin()));
      out[name] = mixed_tensor(sources, std::move(source));
    }
    return out;
  }

  Result<std::vector<double>> divergences(Trials& trials, const std::vector<std::vector<Rates>>& rates) const {
    std::vector<std::map<std::string, PackedTensor>> tensors;
    std::vector<Trials::Changes> changes;
    for (const std::vector<Rates>& each : rates) {
      changes.emplace_back();
      for (const auto& [name, tensor] : tensors.emplace_back(tensors_of(each))) changes.back()[name] = &tensor;
    }
    return trials.divergences(changes);
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
    std::vector<Rates> before = at_base(), standing = proposals_.at(has_ranges ? AllocationKind::kRanges : AllocationKind::kMoves);
    for (size_t round = 1; round <= own_.repricings && change(before, standing) >= kLargeMove; ++round) {
      Model moved = base();
      for (auto& [name, tensor] : tensors_of(standing)) moved.tensors.at(name) = std::move(tensor);
      const std::optional<Network> loaded = keep_loaded(moved, backend_);
      TQ_ASSIGN(const MovePrices prices, prices_at(moved, round));
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
    const std::vector<std::vector<TokenId>> sequences = spread(request_.held_out, own_.held_out, own_.length);
    TQ_ASSIGN(Trials trials, Trials::create(request_.model, base(), backend_, context_, sequences, own_.stride));
    for (const auto& [kind, rates] : proposals_) {
      if (measured(kind) > 0) continue;
      TQ_ASSIGN(const std::vector<double> found, divergences(trials, {rates}));
      out_.facts.kl[static_cast<size_t>(kind)] = found[0];
    }
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
  JobFolder& folder_;
  const AllocationPlan own_;
  const int base_;
  const std::vector<int> rates_;
  std::vector<const Linear*> linears_;
  std::vector<Rates> uniform_;
  double weights_ = 0;
  Groups parts_, groups_, alike_;  // of linears; what moves as one, these or what a target ties; ranges of rows that do
  Candidates candidates_;
  RangeCosts costs_;  // in the base model
  std::map<AllocationKind, std::vector<Rates>> proposals_;
  Chosen out_;
};

// The chosen rates and the facts, as a step.
Status save(JobFolder& folder, const QuantizePlan& plan, const Chosen& chosen) {
  std::vector<JobFolder::Array> arrays;
  size_t next = 0;
  for (const auto& layer : plan.layers)
    for (const TensorPlan& tensor : layer) {
      const Rates& rates = chosen.rates[next++];
      arrays.push_back(
          {{tensor.linear.name, DType::kU8, {static_cast<int64_t>(rates.size())}}, std::as_bytes(std::span<const uint8_t>(rates))});
    }
  const AllocationFacts& facts = chosen.facts;
  const auto text = [](double value) { return fmt::format("{:.17g}", value); };
  std::map<std::string, std::string> metadata = {{kChosen, std::string(allocation_name(facts.chosen))}, {kTies, text(facts.ties)}};
  for (size_t kind = 0; kind < facts.kl.size(); ++kind)
    metadata[std::string(allocation_name(static_cast<AllocationKind>(kind)))] = text(facts.kl[kind]);
  return folder.save_step(kStep, arrays, metadata);
}

AllocationFacts facts_of(const std::map<std::string, std::string>& metadata) {
  const auto fact = [&](std::string_view key) {
    const auto entry = metadata.find(std::string(key));
    return entry == metadata.end() ? std::string() : entry->second;
  };
  AllocationFacts facts;
  for (size_t kind = 0; kind < facts.kl.size(); ++kind) {
    const auto name = allocation_name(static_cast<AllocationKind>(kind));
    facts.kl[kind] = std::strtod(fact(name).c_str(), nullptr);
    if (fact(kChosen) == name) facts.chosen = static_cast<AllocationKind>(kind);
  }
  facts.ties = std::strtod(fact(kTies).c_str(), nullptr);
  return facts;
}

}  // namespace

Status load_allocation(const Model& model, const JobFolder& folder, QuantizePlan& plan) {
  if (!folder.has_step(kStep)) return {};
  TQ_ASSIGN(const auto archive, folder.open_step(kStep));
  std::map<std::string, Rates> found;
  for (const auto& tensor : archive->tensors()) {
    const uint8_t* values = tensor.view.as<uint8_t>();
    found[tensor.name] = Rates(values, values + tensor.view.count());
  }
  std::vector<std::vector<Rates>> rates;
  for (const auto& layer : plan.layers) {
    rates.emplace_back();
    for (const TensorPlan& tensor : layer) {
      if (found[tensor.linear.name].size() != tensor.rates.size())
        return bad_input("an unfinished run has no rates of {}; remove it and begin again", tensor.linear.name);
      rates.back().push_back(found[tensor.linear.name]);
    }
  }
  plan.allocation = facts_of(archive->metadata());
  set_rates(model, plan, rates);
  return {};
}

Status allocation_steps(const AllocationRequest& request, Backend& backend, const Context& context, JobFolder& folder, QuantizePlan& plan) {
  if (!folder.has_step(kStep)) {
    TQ_ASSIGN(const Chosen chosen, Allocating(request, backend, context, folder).run());
    TQ_TRY(save(folder, request.plan, chosen));
  }
  return load_allocation(request.model, folder, plan);
}

}  // namespace tq
