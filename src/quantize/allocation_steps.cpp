#include "quantize/allocation_steps.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "quantize/allocation_plan.h"
#include "quantize/job.h"
#include "quantize/sensitivity.h"
#include "quantize/trials.h"

namespace tq {
namespace {

constexpr const char* kStep = "allocation";
constexpr const char* kPrices = "prices";

std::vector<std::vector<TokenId>> spread(std::span<const std::vector<TokenId>> all, size_t count) {
  std::vector<std::vector<TokenId>> out;
  count = std::min(count, all.size());
  for (size_t i = 0; i < count; ++i) out.push_back(all[i * all.size() / count]);
  return out;
}

struct Chosen {
  std::vector<std::vector<Rates>> rates;  // of each layer's linears; empty: as planned
  AllocationFacts facts;
};

class Allocating {
 public:
  Allocating(const AllocationRequest& request, Backend& backend, const Context& context, JobFolder& folder)
      : request_(request),
        backend_(backend),
        context_(context),
        folder_(folder),
        own_(allocation_plan(request.model.spec, request.plan.options.bits, request.sequences.size())),
        base_(own_.base),
        rates_(own_.rates) {
    for (const auto& layer : request.plan.layers)
      for (const TensorPlan& tensor : layer) linears_.push_back(&tensor.linear);
  }

  Result<Chosen> run() {
    TQ_ASSIGN(candidates_,
              candidate_steps({request_.model, request_.plan, rates_, request_.sequences, request_.weights}, backend_, context_, folder_));
    const std::optional<Network> loaded = keep_loaded(base(), backend_);
    TQ_TRY(price());
    const std::vector<Unit> promotions = promotion_units();
    TQ_TRY(try_demotions());
    TQ_TRY(guard(within_limit(promotions), within_limit(units_)));
    return std::move(out_);
  }

 private:
  const Model& base() const { return candidates_.at(base_); }

  Status price() {
    if (!folder_.has_step(kPrices)) TQ_TRY(measure_prices());
    TQ_ASSIGN(const auto archive, folder_.open_step(kPrices));
    std::map<std::string, std::vector<double>> found;
    for (const auto& tensor : archive->tensors()) {
      const float* values = tensor.view.as<float>();
      found[tensor.name].assign(values, values + tensor.view.count());
    }
    std::vector<PricedRate> priced;
    for (const int rate : rates_) {
      if (rate == base_) continue;
      PricedRate one{rate, {}};
      for (const Linear* linear : linears_) one.price.push_back(found[price_name(*linear, rate)]);
      priced.push_back(std::move(one));
    }
    units_ = make_units(linears_, priced, base_, 0);
    return {};
  }

  static std::string price_name(const Linear& linear, int rate) { return fmt::format("{}.{}", linear.name, rate); }

  Status measure_prices() {
    std::vector<std::pair<int, const Model*>> others;
    for (const auto& [rate, model] : candidates_)
      if (rate != base_) others.emplace_back(rate, &model);
    const std::vector<std::vector<TokenId>> sequences = spread(request_.sequences, own_.priced);
    TQ_ASSIGN(const Sensitivity sensitivity, price_moves(backend_, context_,
                                                         {.original = request_.model,
                                                          .base = base(),
                                                          .candidates = others,
                                                          .sequences = sequences,
                                                          .seed = request_.plan.options.seed}));
    std::map<std::string, std::vector<float>> totals;
    for (const Linear* linear : linears_)
      for (const auto& [rate, model] : others)
        for (const MovePrice& price : sensitivity.prices.at(linear->name).at(rate))
          totals[price_name(*linear, rate)].push_back(static_cast<float>(price.total()));
    std::vector<JobFolder::Array> arrays;
    for (const auto& [name, prices] : totals)
      arrays.push_back({{name, DType::kF32, {static_cast<int64_t>(prices.size())}}, std::as_bytes(std::span<const float>(prices))});
    return folder_.save_step(kPrices, arrays, {});
  }

  std::vector<Unit> promotion_units() const {
    std::vector<Unit> units = units_;
    for (Unit& unit : units) std::erase_if(unit.choices, [&](const Choice& choice) { return choice.rate < base_; });
    return units;
  }

  // The allocation for the plan's bits; for a little less where tensors of mixed sizes would be padded beyond the limit of bytes.
  Allocation within_limit(const std::vector<Unit>& units) const {
    const uint64_t limit = request_.plan.options.byte_limit;
    double all = 0;
    for (const Linear* linear : linears_) all += weights(*linear);
    double bits = request_.plan.options.bits;
    while (true) {
      Allocation allocation = allocate(linears_, units, bits);
      if (limit == 0) return allocation;
      QuantizePlan plan = request_.plan;
      set_rates(request_.model, plan, by_layer(allocation.rates));
      const uint64_t bytes = planned_bytes(request_.model, plan);
      if (bytes <= limit || bits < kLowestRate) return allocation;
      bits = std::min(bits, allocation.bits) - 8.0 * static_cast<double>(bytes - limit) / all;
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

  static double weights(const Linear& linear) { return static_cast<double>(std::max<int64_t>(1, linear.experts) * linear.in * linear.out); }

  // Measures the demotions that seem cheapest for what they save, in the base model; the others are given up.
  Status try_demotions() {
    std::vector<std::pair<double, size_t>> order;  // predicted cost a bit
    for (size_t i = 0; i < units_.size(); ++i)
      if (units_[i].choices[0].rate < base_) order.emplace_back(units_[i].choices[0].cost / weights(*linears_[units_[i].linear]), i);
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const size_t tried = std::min(order.size(), own_.tried);
    for (size_t i = tried; i < order.size(); ++i) {
      auto& choices = units_[order[i].second].choices;
      choices.erase(choices.begin());
    }
    std::optional<Trials> trials;  // made when the first is needed
    for (size_t i = 0; i < tried; ++i) {
      Unit& unit = units_[order[i].second];
      TQ_ASSIGN(unit.choices[0].cost, tried_cost(*linears_[unit.linear], unit.choices[0].rate, trials));
      context_.listener.progress("demotions", static_cast<int64_t>(i + 1), static_cast<int64_t>(tried));
    }
    return {};
  }

  // The measured change of the KL, kept as a step of its own.
  Result<double> tried_cost(const Linear& linear, int rate, std::optional<Trials>& trials) {
    constexpr const char* kCost = "cost";
    const std::string step = fmt::format("trial-{}.{}", linear.name, rate), name = linear.name + ".weight";
    if (!folder_.has_step(step)) {
      if (!trials) {
        const std::vector<std::vector<TokenId>> sequences = spread(request_.sequences, kTrialSequences);
        TQ_ASSIGN(trials, Trials::create(request_.model, base(), backend_, context_, sequences));
        TQ_ASSIGN(before_, trials->divergence({}));
      }
      TQ_ASSIGN(const double after, trials->divergence({{name, candidates_.at(rate).find(name)}}));
      TQ_TRY(folder_.save_step(step, {}, {{kCost, fmt::format("{:.17g}", after - before_)}}));
    }
    TQ_ASSIGN(const auto archive, folder_.open_step(step));
    const auto found = archive->metadata().find(kCost);
    if (found == archive->metadata().end()) return bad_input("an unfinished run lacks the cost of {}; remove it and begin again", name);
    return std::strtod(found->second.c_str(), nullptr);
  }

  // The candidate models' tensors that come closest to an allocation: each linear at the rate that most of it has.
  Trials::Changes changes_of(const std::vector<Rates>& rates) const {
    Trials::Changes changes;
    for (size_t l = 0; l < linears_.size(); ++l) {
      double sum = 0;
      for (const uint8_t rate : rates[l]) sum += rate;
      const int rate = std::clamp(static_cast<int>(std::lround(sum / static_cast<double>(rates[l].size()))), rates_.front(), rates_.back());
      const std::string name = linears_[l]->name + ".weight";
      if (rate != base_) changes[name] = candidates_.at(rate).find(name);
    }
    return changes;
  }

  // Uniform rates, as far as whole linears can have them.
  std::vector<Rates> uniform() const {
    std::vector<Rates> out;
    double allowed = 0, spent = 0;
    for (const Linear* linear : linears_) {
      allowed += (request_.plan.options.bits - base_) * weights(*linear);
      const bool is_higher = spent + weights(*linear) <= allowed + 0.5 * weights(*linear) && allowed > 0;
      if (is_higher) spent += weights(*linear);
      out.push_back(constant_rates(*linear, base_ + is_higher));
    }
    return out;
  }

  Status guard(const Allocation& promotions, const Allocation& moves) {
    TQ_ASSIGN(Trials trials, Trials::create(request_.model, base(), backend_, context_, request_.held_out));
    AllocationFacts& facts = out_.facts;
    TQ_ASSIGN(facts.uniform, trials.divergence(changes_of(uniform())));
    TQ_ASSIGN(facts.promotions, trials.divergence(changes_of(promotions.rates)));
    TQ_ASSIGN(facts.moves, trials.divergence(changes_of(moves.rates)));
    facts.chosen = "uniform";
    if (facts.promotions < facts.uniform) facts.chosen = "promotions";
    if (facts.moves < std::min(facts.uniform, facts.promotions)) facts.chosen = "moves";
    if (facts.chosen != "uniform") out_.rates = by_layer(facts.chosen == "moves" ? moves.rates : promotions.rates);
    context_.listener.note(
        fmt::format("rates: {} chosen; KL on held-out text {:.4f} uniform, {:.4f} promotions only, {:.4f} moves both ways", facts.chosen,
                    facts.uniform, facts.promotions, facts.moves));
    return {};
  }

  const AllocationRequest& request_;
  Backend& backend_;
  const Context& context_;
  JobFolder& folder_;
  const AllocationPlan own_;
  const int base_;
  const std::vector<int> rates_;
  std::vector<const Linear*> linears_;
  Candidates candidates_;
  double before_ = 0;  // KL of the base model in the trials
  std::vector<Unit> units_;
  Chosen out_;
};

// The chosen rates and the facts, as a step.
Status save(JobFolder& folder, const QuantizePlan& plan, const Chosen& chosen) {
  std::vector<JobFolder::Array> arrays;
  for (size_t layer = 0; layer < plan.layers.size(); ++layer)
    for (size_t i = 0; i < plan.layers[layer].size(); ++i) {
      const TensorPlan& tensor = plan.layers[layer][i];
      const Rates& rates = chosen.rates.empty() ? tensor.rates : chosen.rates[layer][i];
      arrays.push_back(
          {{tensor.linear.name, DType::kU8, {static_cast<int64_t>(rates.size())}}, std::as_bytes(std::span<const uint8_t>(rates))});
    }
  const AllocationFacts& facts = chosen.facts;
  const auto text = [](double value) { return fmt::format("{:.17g}", value); };
  return folder.save_step(
      kStep, arrays,
      {{"chosen", facts.chosen}, {"uniform", text(facts.uniform)}, {"promotions", text(facts.promotions)}, {"moves", text(facts.moves)}});
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
  const auto fact = [&](const char* key) {
    const auto entry = archive->metadata().find(key);
    return entry == archive->metadata().end() ? std::string() : entry->second;
  };
  const auto number = [&](const char* key) { return std::strtod(fact(key).c_str(), nullptr); };
  plan.allocation = {fact("chosen"), number("uniform"), number("promotions"), number("moves")};
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
