#include "quantize/card.h"

#include <algorithm>
#include <filesystem>

#include "artifact/format.h"
#include "base/json_text.h"
#include "base/version.h"
#include "quantize/calibration.h"
#include "quantize/plan.h"
#include "quantize/tune.h"

namespace tq {
namespace {

// A fixed width keeps the promised size exact.
std::string fixed(double value) { return fmt::format("{:.6e}", std::max(0.0, value)); }

std::string source_name(const Model& model) {
  std::filesystem::path path(model.source);
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

// Names of the calibration's texts, without their folders.
Json calibration_names(const QuantizeOptions& options) {
  if (options.calibration.empty()) return {kBuiltInCalibration};
  Json names = Json::array();
  for (const std::string& path : options.calibration) names.push_back(std::filesystem::path(path).filename().string());
  return names;
}

// The oldest whose readers get these arrays right.
int format_of(const QuantizePlan& plan) {
  int format = 1;
  for (const TensorPlan* tensor : plan.tensors()) {
    if (tensor->has_row_scale) format = std::max(format, 2);
    if (tensor->method == Method::kTurboquant && std::ranges::find(tensor->rates, 1) != tensor->rates.end()) format = 3;
  }
  return format;
}

Json quantization_config(const QuantizePlan& plan) {
  return {{"quant_method", kQuantMethod}, {"format", format_of(plan)}, {"bits", plan.options.bits}, {"hadamard_block", 256}};
}

std::string config_text(const Model& model, const QuantizePlan& plan) {
  Json config = model.config;
  config["quantization_config"] = quantization_config(plan);
  return json_text(config, 2) + "\n";
}

std::string bits_text(int bits) { return bits == 0 ? "as in the original" : fmt::format("{} bits", bits); }

std::string card_text(const Model& model, const QuantizePlan& plan) {
  const MeanBits bits = mean_bits(plan);
  const QuantizeOptions& options = plan.options;
  return fmt::format(
      "---\nlibrary_name: turboquant\ntags:\n- turboquant\n---\n\n# {0}, {1:.4g} bits\n\n"
      "A TurboQuant artifact of {0} ({2}).\n\n"
      "| | |\n|---|---|\n| linears | {3:.3f} bits a weight, {4:.3f} with scales, signs and padding |\n| head | {5} |\n| embedding | {6} |\n"
      "| method | {9} |\n| effort | {7} |\n| calibration | {8} tokens |\n\n"
      "Run it:\n\n    tq run DIRECTORY \"a prompt\"\n\nThe model's own licence applies.\n",
      source_name(model), options.bits, describe(model), bits.code, bits.stored, bits_text(options.head_bits),
      bits_text(model.spec.tied ? options.head_bits : options.embedding_bits), effort_name(options.effort), calibration_tokens(options),
      method_name(options.method));
}

// Divergences only where bits were chosen by what they cost; of what turned out not to be measured null, as wide as a number.
Json allocation_record(const QuantizePlan& plan, std::string& padding) {
  Json record = {{"chosen", fmt::format("{:<10}", allocation_name(plan.allocation.chosen))}, {"target", target_name(plan.options.target)}};
  if (!uses_allocation(plan.options)) return record;
  const auto add = [&](const std::string& key, bool is_measured, double value) {
    const std::string text = fixed(value);
    record[key] = is_measured ? Json(text) : Json();
    if (!is_measured) padding.append(json_text(Json(text)).size() - json_text(Json()).size(), ' ');
  };
  const AllocationFacts& facts = plan.allocation;
  if (plan.options.target != Target::kNone) add("kl_ties_estimated", facts.kl[0] > 0, facts.ties);
  for (size_t kind = 0; kind < kMeasuredAllocations; ++kind)
    add(fmt::format("kl_{}", allocation_name(static_cast<AllocationKind>(kind))), facts.kl[kind] > 0, facts.kl[kind]);
  return record;
}

// Errors of the blocks, layer by layer, and which of them kept their calibration.
Json calibration_record(const Model& model, const QuantizeOptions& options, const RecordFacts& facts) {
  const CalibrationBudget budget = calibration_budget(options, count_weights(model.spec).linears);
  Json errors = Json::array();
  std::string kept;
  const CalibrationFacts none;
  auto next = facts.steps.calibration.begin();
  for (size_t layer = 0; layer < model.spec.layers.size(); ++layer) {
    const CalibrationFacts& own = next == facts.steps.calibration.end() ? none : (next++)->second;
    errors.push_back({fixed(own.plain), fixed(own.calibrated)});
    kept += own.plain == 0 ? '-' : own.is_kept ? 'y' : 'n';
  }
  return {{"steps", budget.steps},
          {"sequences", budget.sequences},
          {"weight_rate", budget.weight_rate},
          {"vector_rate", budget.vector_rate},
          {"errors_plain_calibrated", errors},
          {"kept", kept}};
}

}  // namespace

std::string record_text(const Model& model, const QuantizePlan& plan, const RecordFacts& facts) {
  const QuantizeOptions& options = plan.options;
  const Origin origin = facts.origin ? *facts.origin : unknown_origin(options);
  Json windows = Json::object();
  for (size_t rate = 0; rate < plan.taps.size(); ++rate)
    if (!plan.taps[rate].empty()) windows[std::to_string(rate)] = plan.taps[rate].size();
  Json record = {{"format", format_of(plan)},
                 {"program", program_name()},
                 {"source", source_name(model)},
                 {"source_hash", origin.source},
                 {"bits", options.bits},
                 {"embedding_bits", options.embedding_bits},
                 {"head_bits", options.head_bits},
                 {"method", method_name(options.method)},
                 {"group", options.group},
                 {"act_order", uses_act_order(options)},
                 {"effort", effort_name(options.effort)},
                 {"windows", windows},
                 {"calibration", calibration_names(options)},
                 {"calibration_hashes", origin.calibration},
                 {"calibration_tokens", calibration_tokens(options)},
                 {"calibration_sequence", options.sequence},
                 {"gradients", uses_gradients(options)},
                 {"allocate", uses_allocation(options)},
                 {"damping", damping_of(options)},
                 {"passes", options.passes},
                 {"seed", options.seed}};
  Json tensors = Json::object(), experts = Json::object(), inputs = Json::object();
  for (const TensorPlan* tensor : plan.tensors()) {
    const auto error = facts.steps.errors.find(tensor->linear.name);
    tensors[tensor->linear.name] = fixed(error == facts.steps.errors.end() ? 0.0 : error->second);
    if (tensor->linear.tap == model.spec.embedding) continue;  // looked up, not multiplied
    if (tensor->linear.experts == 0) {
      const auto input = facts.steps.inputs.find(tensor->linear.tap);
      inputs[tensor->linear.tap] = (input == facts.steps.inputs.end() ? InputFacts() : input->second).text();
      continue;
    }
    const auto letters = facts.steps.experts.find(tensor->linear.tap);
    experts[tensor->linear.tap] =
        letters == facts.steps.experts.end() ? std::string(static_cast<size_t>(tensor->linear.experts), 'o') : letters->second;
  }
  record["relative_error"] = tensors;
  record["inputs"] = inputs;
  if (!experts.empty()) record["experts"] = experts;
  Json rates = Json::object();
  for (const TensorPlan* tensor : plan.tensors()) rates[tensor->linear.name] = fmt::format("{:.4f}", mean_rate(*tensor));
  record["rates"] = rates;
  std::string padding;  // so that the file has the planned length
  record["allocation"] = allocation_record(plan, padding);
  if (uses_calibration(options)) record["block_calibration"] = calibration_record(model, options, facts);
  if (uses_tuning(options))
    record["tuning"] = {
        {"steps", tune_settings(options, model.spec.context).steps}, {"kl_before", fixed(facts.untuned)}, {"kl_after", fixed(facts.tuned)}};
  Json files = Json::object();
  for (const auto& [name, hash] : facts.hashes) files[name] = hash;
  record["files"] = files;
  return json_text(record, 2) + padding + "\n";
}

std::map<std::string, std::string> artifact_texts(const Model& model, const QuantizePlan& plan) {
  std::map<std::string, std::string> texts;
  for (const CarriedFile& file : model.files) texts[file.name] = file.text;
  texts["config.json"] = config_text(model, plan);
  texts["README.md"] = card_text(model, plan);
  return texts;
}

uint64_t report_bytes(const QuantizePlan& plan) {
  constexpr uint64_t kPage = 24 << 10, kTensor = 640;  // style, axes, sizes; a dot and a field with their descriptions
  uint64_t bytes = kPage;
  for (const TensorPlan* tensor : plan.tensors()) bytes += kTensor + 2 * tensor->linear.name.size();
  return bytes;
}

}  // namespace tq
