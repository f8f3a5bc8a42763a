#include "quantize/allocation_record.h"

#include <algorithm>

#include "codec/grid/layout.h"
#include "quantize/allocation_plan.h"

namespace tq {
namespace {

constexpr const char* kStep = "allocation";
constexpr const char* kChosen = "chosen";  // its metadata
constexpr const char* kTies = "ties";

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

bool has_allocation(const JobFolder& folder) { return folder.has_step(kStep); }

Status save_allocation(JobFolder& folder, const QuantizePlan& plan, const ChosenRates& chosen) {
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

Status load_allocation(const Model& model, const JobFolder& folder, QuantizePlan& plan) {
  if (!has_allocation(folder)) return {};
  TQ_ASSIGN(const auto archive, folder.open_step(kStep));
  std::vector<std::vector<Rates>> rates;
  for (const auto& layer : plan.layers) {
    rates.emplace_back();
    for (const TensorPlan& tensor : layer) {
      TQ_ASSIGN(const TensorView view, step_array(*archive, tensor.linear.name, DType::kU8, static_cast<int64_t>(tensor.rates.size())));
      Rates& own = rates.back().emplace_back(view.as<uint8_t>(), view.as<uint8_t>() + view.count());
      if (std::any_of(own.begin(), own.end(), [](uint8_t rate) { return rate < grid::kMinRate || rate > grid::kMaxRate; }))
        return bad_input("an unfinished run has rates of {} that there are not; remove it and begin again", tensor.linear.name);
    }
  }
  plan.allocation = facts_of(archive->metadata());
  set_rates(model, plan, rates);
  return {};
}

}  // namespace tq
