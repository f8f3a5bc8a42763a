#include "quantize/finished_job.h"

#include <algorithm>
#include <cstdlib>

#include "base/json.h"
#include "codec/grid/layout.h"

namespace tq {
namespace {

// Only the grid's rates are chosen.
Status read_rates(const JobFolder& folder, const Model& model, QuantizePlan& plan) {
  if (plan.options.method != Method::kTurboquant) return {};
  TQ_ASSIGN(const auto archive, safetensors::Archive::open_directory(folder.path()));
  std::vector<std::vector<Rates>> rates;
  for (const auto& layer : plan.layers) {
    rates.emplace_back();
    for (const TensorPlan& tensor : layer) {
      const std::string name = tensor.linear.name + ".rates";
      TQ_ASSIGN(const TensorView view, step_array(*archive, name, DType::kU8, static_cast<int64_t>(tensor.rates.size())));
      const Rates& own = rates.back().emplace_back(view.as<uint8_t>(), view.as<uint8_t>() + view.count());
      if (std::any_of(own.begin(), own.end(), [](uint8_t rate) { return rate < grid::kMinRate || rate > grid::kMaxRate; }))
        return bad_input("{}: {} has rates that there are not; remove it and begin again", folder.path(), name);
    }
  }
  set_rates(model, plan, rates);
  return {};
}

// Calls take(name, text) for the members of an object of the record that are texts, as all figures are.
template <typename Take>
void each_text(const Json& record, const char* key, const Take& take) {
  const auto object = record.find(key);
  if (object == record.end() || !object->is_object()) return;
  for (const auto& [name, value] : object->items())
    if (value.is_string()) take(name, value.template get<std::string>());
}

double number_of(const std::string& text) { return std::strtod(text.c_str(), nullptr); }

AllocationFacts allocation_of(const Json& record) {
  AllocationFacts facts;
  each_text(record, "allocation", [&](const std::string& key, const std::string& text) {
    if (key == "kl_ties_estimated") facts.ties = number_of(text);
    for (size_t i = 0; i <= static_cast<size_t>(AllocationKind::kGiven); ++i) {
      const auto kind = static_cast<AllocationKind>(i);
      if (key == "chosen" && text.substr(0, text.find(' ')) == allocation_name(kind)) facts.chosen = kind;
      if (i < kMeasuredAllocations && key == fmt::format("kl_{}", allocation_name(kind))) facts.kl[i] = number_of(text);
    }
  });
  return facts;
}

}  // namespace

Result<QuantizeSummary> finished_summary(const JobFolder& folder, const Model& model, const QuantizePlan& plan) {
  QuantizePlan own = plan;
  TQ_TRY(read_rates(folder, model, own));
  TQ_ASSIGN(const Json record, read_json_file(folder.path() + "/turboquant.json"));
  QuantizeSummary summary;
  each_text(record, "relative_error", [&](const auto& name, const auto& text) { summary.errors[name] = number_of(text); });
  each_text(record, "experts", [&](const auto& tap, const auto& letters) { summary.experts[tap] = letters; });
  each_text(record, "inputs", [&](const auto& tap, const auto& text) { summary.inputs[tap] = input_facts(text); });
  summary.files_bytes = folder.bytes_beside_steps();
  summary.bits = mean_bits(own);
  summary.layers = own.layers;
  summary.allocation = allocation_of(record);
  summary.target = own.options.target;
  return summary;
}

}  // namespace tq
