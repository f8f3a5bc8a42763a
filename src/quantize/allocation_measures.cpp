#include "quantize/allocation_measures.h"

#include <algorithm>
#include <cmath>

#include "codec/mixed/mixed.h"

namespace tq {
namespace {

constexpr const char* kCosts = "costs";

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

bool is_sound(std::span<const double> costs) {
  return std::all_of(costs.begin(), costs.end(), [](double each) { return each >= 0 && std::isfinite(each); });
}

std::string cost_name(const Linear& linear, int rate) { return fmt::format("{}.{}", linear.name, rate); }

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
  Model out = at(own_.base);
  for (auto& [name, tensor] : changed_tensors(rates)) out.tensors.at(name) = std::move(tensor);
  return out;
}

Result<RangeCosts> AllocationMeasures::costs(const Model& standing, size_t round) {
  const std::string step = fmt::format("{}-{}", kCosts, round);
  if (!folder_.has_step(step)) TQ_TRY(measure_costs(standing, step));
  TQ_ASSIGN(const auto archive, folder_.open_step(step));
  RangeCosts out;
  for (const int rate : own_.rates)
    for (const Linear* linear : linears_) {
      TQ_ASSIGN(const TensorView view, step_array(*archive, cost_name(*linear, rate), DType::kF32, ranges_of(*linear)));
      const std::vector<double>& found = out[rate].emplace_back(view.as<float>(), view.as<float>() + view.count());
      if (!is_sound(found)) return bad_input("an unfinished run has no sound costs of {}; remove it and begin again", linear->name);
    }
  return out;
}

Status AllocationMeasures::measure_costs(const Model& standing, const std::string& step) {
  const StageTimer timer(context_.times, "costs");
  std::vector<std::pair<int, const Model*>> rounded;
  for (const auto& [rate, model] : candidates_) rounded.emplace_back(rate, &model);
  const std::vector<std::vector<TokenId>> sequences = spread(request_.sequences, own_.priced, own_.length);
  TQ_ASSIGN(const RoundingCosts costs, rounding_costs(backend_, context_,
                                                      {.original = request_.model,
                                                       .standing = standing,
                                                       .candidates = rounded,
                                                       .sequences = sequences,
                                                       .seed = request_.plan.options.seed}));
  std::map<std::string, std::vector<float>> values;
  for (const Linear* linear : linears_)
    for (const auto& [rate, own] : costs.at(linear->name)) {
      if (!is_sound(own)) return fail(ErrorCode::kFailed, "{}: what {} bits cost is no finite number", linear->name, rate);
      values[cost_name(*linear, rate)].assign(own.begin(), own.end());
    }
  std::vector<JobFolder::Array> arrays;
  for (const auto& [name, own] : values)
    arrays.push_back({{name, DType::kF32, {static_cast<int64_t>(own.size())}}, std::as_bytes(std::span<const float>(own))});
  return folder_.save_step(step, arrays, {});
}

int64_t AllocationMeasures::first_changed(const std::vector<Rates>& rates) const {
  const auto is_base = [&](uint8_t rate) { return rate == own_.base; };
  size_t linear = 0;
  for (size_t layer = 0; layer < request_.plan.layers.size(); ++layer)
    for (size_t i = 0; i < request_.plan.layers[layer].size(); ++i, ++linear)
      if (!std::all_of(rates[linear].begin(), rates[linear].end(), is_base)) return static_cast<int64_t>(layer);
  return request_.model.spec.layers_count();
}

// One after another: each has hidden states of its own only while it is measured.
Result<std::vector<double>> AllocationMeasures::held_out_divergences(const std::vector<std::vector<Rates>>& rates) {
  const std::vector<std::vector<TokenId>> sequences = spread(request_.held_out, own_.held_out, own_.length);
  std::set<int64_t> starts;
  for (const std::vector<Rates>& each : rates) starts.insert(first_changed(each));
  TQ_ASSIGN(Trials trials, Trials::create(request_.model, at(own_.base), backend_, context_, sequences, own_.stride, starts));
  std::vector<double> out;
  for (const std::vector<Rates>& each : rates) {
    TQ_ASSIGN(const double found, divergence(trials, each));
    out.push_back(found);
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

Result<double> AllocationMeasures::divergence(Trials& trials, const std::vector<Rates>& rates) const {
  const std::map<std::string, PackedTensor> tensors = changed_tensors(rates);
  Trials::Changes changes;
  for (const auto& [name, tensor] : tensors) changes[name] = &tensor;
  return trials.divergence(changes);
}

}  // namespace tq
