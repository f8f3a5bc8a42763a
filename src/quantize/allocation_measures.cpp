#include "quantize/allocation_measures.h"

#include <algorithm>

#include "codec/mixed/mixed.h"

namespace tq {
namespace {

constexpr const char* kPrices = "prices";
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

std::string price_name(const Linear& linear, int rate) { return fmt::format("{}.{}", linear.name, rate); }

}  // namespace

Status AllocationMeasures::make_candidates() {
  const StageTimer timer(context_.times, "candidates");
  TQ_CHECK(!request_.weights || own_.candidates == request_.sequences.size());  // weights are those of all sequences
  const std::vector<std::vector<TokenId>> sequences = spread(request_.sequences, own_.candidates);
  TQ_ASSIGN(candidates_,
            candidate_steps({request_.model, request_.plan, own_.rates, sequences, request_.weights}, backend_, context_, folder_));
  return {};
}

std::vector<Rates> AllocationMeasures::at_base() const {
  std::vector<Rates> out;
  for (const Linear* linear : linears_) out.push_back(constant_rates(*linear, own_.base));
  return out;
}

Model AllocationMeasures::moved(const std::vector<Rates>& rates) const {
  Model out = base();
  for (auto& [name, tensor] : changed_tensors(rates)) out.tensors.at(name) = std::move(tensor);
  return out;
}

Result<MovePrices> AllocationMeasures::prices(const Model& standing, size_t round) {
  const std::string step = fmt::format("{}-{}", kPrices, round);
  if (!folder_.has_step(step)) TQ_TRY(measure_prices(standing, step, round > 0));
  TQ_ASSIGN(const auto archive, folder_.open_step(step));
  MovePrices out;
  for (const Linear* linear : linears_)
    for (const int rate : own_.rates) {
      if (rate == own_.base && round == 0) continue;
      TQ_ASSIGN(const TensorView view, step_array(*archive, price_name(*linear, rate), DType::kF32, 2 * ranges_of(*linear)));
      for (int64_t i = 0; i < view.count(); i += 2) out[linear->name][rate].push_back({view.as<float>()[i], view.as<float>()[i + 1]});
    }
  return out;
}

Status AllocationMeasures::measure_prices(const Model& standing, const std::string& step, bool has_base) {
  const StageTimer timer(context_.times, "prices");
  std::vector<std::pair<int, const Model*>> others;
  for (const auto& [rate, model] : candidates_)
    if (rate != own_.base || has_base) others.emplace_back(rate, &model);
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

Result<std::vector<double>> AllocationMeasures::demotion_costs(const Groups& groups, int rate) {
  const StageTimer timer(context_.times, "demotions");
  TQ_TRY(measure_demotions(groups, rate));
  std::vector<double> costs;
  for (const std::vector<Range>& group : groups) {
    TQ_ASSIGN(const double cost, demotion_cost(group, rate));
    costs.push_back(cost);
  }
  return costs;
}

std::vector<Rates> AllocationMeasures::demoted(const std::vector<Range>& group, int rate) const {
  std::vector<Rates> rates = at_base();
  for (const Range& range : group) rates[range.linear][range.place()] = static_cast<uint8_t>(rate);
  return rates;
}

int64_t AllocationMeasures::first_changed(const std::vector<Rates>& rates) const {
  const auto is_base = [&](uint8_t rate) { return rate == own_.base; };
  size_t linear = 0;
  for (size_t layer = 0; layer < request_.plan.layers.size(); ++layer)
    for (size_t i = 0; i < request_.plan.layers[layer].size(); ++i, ++linear)
      if (!std::all_of(rates[linear].begin(), rates[linear].end(), is_base)) return static_cast<int64_t>(layer);
  return request_.model.spec.layers_count();
}

std::string AllocationMeasures::trial_step(const std::vector<Range>& group, int rate) const {
  return fmt::format("trial-{}.{}.{}", linears_[group[0].linear]->name, group[0].range, rate);
}

// Those that are not known yet, each a step of its own.
Status AllocationMeasures::measure_demotions(const Groups& all, int rate) {
  Groups groups;
  for (const std::vector<Range>& group : all)
    if (!folder_.has_step(trial_step(group, rate))) groups.push_back(group);
  if (groups.empty()) return {};
  const std::vector<std::vector<TokenId>> sequences = spread(request_.sequences, own_.trial_sequences, own_.length);
  std::set<int64_t> starts = {request_.model.spec.layers_count()};
  for (const std::vector<Range>& group : groups) starts.insert(first_changed(demoted(group, rate)));
  TQ_ASSIGN(Trials trials, Trials::create(request_.model, base(), backend_, context_, sequences, own_.stride, starts));
  TQ_ASSIGN(const double before, trials.divergence({}));
  const size_t most = std::max<size_t>(1, kTrialBytes / trials.state_bytes());
  for (size_t first = 0; first < groups.size(); first += most) {
    const size_t count = std::min(most, groups.size() - first);
    std::vector<std::vector<Rates>> rates;
    for (size_t i = 0; i < count; ++i) rates.push_back(demoted(groups[first + i], rate));
    TQ_ASSIGN(const std::vector<double> after, divergences(trials, rates));
    for (size_t i = 0; i < count; ++i)
      TQ_TRY(folder_.save_step(trial_step(groups[first + i], rate), {}, {{kCost, fmt::format("{:.17g}", after[i] - before)}}));
    context_.listener.progress("demotions", static_cast<int64_t>(first + count), static_cast<int64_t>(groups.size()));
  }
  return {};
}

Result<double> AllocationMeasures::demotion_cost(const std::vector<Range>& group, int rate) const {
  TQ_ASSIGN(const auto archive, folder_.open_step(trial_step(group, rate)));
  const auto found = archive->metadata().find(kCost);
  if (found == archive->metadata().end())
    return bad_input("an unfinished run lacks the cost of {}; remove it and begin again", linears_[group[0].linear]->name);
  return std::strtod(found->second.c_str(), nullptr);
}

// One after another: each has hidden states of its own only while it is measured.
Result<std::vector<double>> AllocationMeasures::held_out_divergences(const std::vector<std::vector<Rates>>& rates) {
  const std::vector<std::vector<TokenId>> sequences = spread(request_.held_out, own_.held_out, own_.length);
  std::set<int64_t> starts;
  for (const std::vector<Rates>& each : rates) starts.insert(first_changed(each));
  TQ_ASSIGN(Trials trials, Trials::create(request_.model, base(), backend_, context_, sequences, own_.stride, starts));
  std::vector<double> out;
  for (const std::vector<Rates>& each : rates) {
    TQ_ASSIGN(const std::vector<double> found, divergences(trials, {&each, 1}));
    out.push_back(found[0]);
  }
  return out;
}

// The candidates' tensors, range by range as an allocation has them, where they differ from the base's.
std::map<std::string, PackedTensor> AllocationMeasures::changed_tensors(const std::vector<Rates>& rates) const {
  std::map<std::string, PackedTensor> out;
  for (size_t l = 0; l < linears_.size(); ++l) {
    const std::string name = linears_[l]->name + ".weight";
    if (std::all_of(rates[l].begin(), rates[l].end(), [&](uint8_t rate) { return rate == rates[l][0]; })) {
      if (rates[l][0] != own_.base) out[name] = *candidates_.at(rates[l][0]).find(name);
      continue;
    }
    std::vector<const PackedTensor*> sources;
    for (const int rate : own_.rates) sources.push_back(candidates_.at(rate).find(name));
    std::vector<uint8_t> source;
    for (const uint8_t rate : rates[l])
      source.push_back(static_cast<uint8_t>(std::find(own_.rates.begin(), own_.rates.end(), rate) - own_.rates.begin()));
    out[name] = mixed_tensor(sources, std::move(source));
  }
  return out;
}

Result<std::vector<double>> AllocationMeasures::divergences(Trials& trials, std::span<const std::vector<Rates>> rates) const {
  std::vector<std::map<std::string, PackedTensor>> tensors;
  std::vector<Trials::Changes> changes;
  for (const std::vector<Rates>& each : rates) {
    changes.emplace_back();
    for (const auto& [name, tensor] : tensors.emplace_back(changed_tensors(each))) changes.back()[name] = &tensor;
  }
  return trials.divergences(changes);
}

}  // namespace tq
