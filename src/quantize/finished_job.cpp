#include "quantize/finished_job.h"

#include <algorithm>
#include <cstdlib>

#include "base/json.h"
#include "codec/grid/layout.h"
#include "quantize/job_steps.h"

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

// By the names of the layers' steps.
std::map<std::string, CalibrationFacts> calibration_of(const Json& record) {
  std::map<std::string, CalibrationFacts> out;
  const auto own = record.find("block_calibration");
  if (own == record.end() || !own->is_object()) return out;
  const Json errors = own->value("errors_plain_calibrated", Json::array());
  const std::string kept = own->contains("kept") && own->at("kept").is_string() ? own->at("kept").get<std::string>() : "";
  for (size_t layer = 0; errors.is_array() && layer < errors.size(); ++layer) {
    const Json& pair = errors[layer];
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) return {};
    CalibrationFacts& facts = out[layer_step(static_cast<int64_t>(layer))];
    facts.plain = number_of(pair[0].get<std::string>()), facts.calibrated = number_of(pair[1].get<std::string>());
    facts.is_kept = layer < kept.size() && kept[layer] == 'y';
  }
  return out;
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
  summary.calibration = calibration_of(record);
  summary.files_bytes = folder.bytes_beside_steps();
  summary.bits = mean_bits(own);
  summary.layers = own.layers;
  summary.allocation = allocation_of(record);
  summary.target = own.options.target;
  return summary;
}

}  // namespace tq
