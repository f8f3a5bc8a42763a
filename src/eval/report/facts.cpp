#include "eval/report/facts.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "artifact/inputs.h"
#include "codec/grid/layout.h"

namespace tq::report {
namespace {

std::string kind_name(Role role) {
  switch (role) {
    case Role::kQuery: return "query";
    case Role::kKey: return "key";
    case Role::kValue: return "value";
    case Role::kFusedQkv: return "qkv";
    case Role::kOutput: return "output";
    case Role::kGate: return "gate";
    case Role::kUp: return "up";
    case Role::kFusedGateUp: return "gate+up";
    case Role::kDown: return "down";
    case Role::kRouter: return "router";
    case Role::kHead: return "head";
  }
  __builtin_unreachable();
}

double mean_rate(const PackedTensor& tensor) {
  const TensorView* rates = tensor.codec == CodecId::kGrid ? tensor.part("rates") : nullptr;
  if (!rates || rates->count() == 0) return 0;
  return grid::mean_rate({rates->as<uint8_t>(), static_cast<size_t>(rates->count())}, tensor.shape[tensor.shape.size() - 2]);
}

// An object of turboquant.json; an empty one for every other model, and for a file that cannot be read.
Json record_of(const Model& model, const char* key) {
  const auto record = read_json_file(model.source + "/turboquant.json");
  if (!record || !record->is_object()) return Json::object();
  const auto found = record->find(key);
  return found != record->end() && found->is_object() ? *found : Json::object();
}

std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// The allocation of a record in a sentence.
std::string choice_text(const Json& allocation) {
  std::string text;
  for (const auto& [key, what] : {std::pair{"kl_uniform", "uniform"},
                                  {"kl_promotions", "promotions only"},
                                  {"kl_moves", "linears both ways"},
                                  {"kl_ranges", "rows both ways"},
                                  {"kl_repriced", "priced again"}}) {
    const double divergence = std::strtod(text_of(allocation, key).c_str(), nullptr);
    if (divergence > 0 && std::isfinite(divergence)) text += fmt::format("{}{} {:.4f}", text.empty() ? "" : ", ", what, divergence);
  }
  const std::string chosen = text_of(allocation, "chosen"), target = text_of(allocation, "target");
  if (!text.empty()) text = fmt::format(" Chosen: {}; KL on held-out text: {}.", chosen.substr(0, chosen.find(' ')), text);
  if (target.empty()) return text;
  const double ties = std::strtod(text_of(allocation, "kl_ties_estimated").c_str(), nullptr);
  return text + (text.empty() ? fmt::format(" Tied for {}.", target)
                              : fmt::format(" Tied for {}, which costs about {:.4f} of KL (an estimate).", target, ties));
}

std::string described_input(const std::string& facts) { return input_facts(facts).described(); }

// The first of them by name, and how many there are.
std::string unusual_inputs(const Model& model) {
  constexpr int kNamed = 12;
  std::string text;
  int count = 0;
  for (const auto& [key, describe] : {std::pair{"inputs", &described_input}, {"experts", &described_experts}}) {
    const Json inputs = record_of(model, key);
    for (const auto& [tap, facts] : inputs.items()) {
      const std::string what = facts.is_string() ? describe(facts.get<std::string>()) : "";
      if (what.empty()) continue;
      if (++count <= kNamed) text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", tap, what);
    }
  }
  if (count == 0) return {};
  return fmt::format("Inputs that said too little in the calibration, {}: {}{}. What is not known of them counts by the weights alone.",
                     count, text, count > kNamed ? "; …" : "");
}

TensorFacts tensor_facts(const Model& model, const Linear& linear, int64_t layer, const Json& errors) {
  TensorFacts facts{.name = linear.name, .kind = kind_name(linear.role), .layer = layer};
  if (const PackedTensor* tensor = model.find(linear.name + ".weight")) facts.bits = mean_rate(*tensor);
  const auto found = errors.find(linear.name);
  if (found != errors.end() && found->is_string()) {
    const double error = std::strtod(found->get_ref<const std::string&>().c_str(), nullptr);
    if (std::isfinite(error) && error >= 0) facts.relative_error = error;
  }
  return facts;
}

std::string last_part(const std::string& path) {
  std::filesystem::path parts(path);
  if (!parts.has_filename()) parts = parts.parent_path();
  return parts.filename().string();
}

}  // namespace

ModelFacts gather_facts(const Model& model) {
  const WeightCounts counts = count_weights(model.spec);
  const StoredBytes bytes = stored_bytes(model);
  ModelFacts facts{.name = last_part(model.source), .description = describe(model), .format = model.format};
  facts.layers = model.spec.layers_count();
  facts.file_bytes = model.file_bytes;
  facts.bytes_in_16_bits = 2 * static_cast<uint64_t>(counts.all);
  facts.bits_linears = 8.0 * static_cast<double>(bytes.linears) / static_cast<double>(counts.linears);
  facts.bits_all = 8.0 * static_cast<double>(bytes.all) / static_cast<double>(counts.all);
  facts.rates_choice = choice_text(record_of(model, "allocation"));
  facts.unusual_inputs = unusual_inputs(model);
  const Json errors = record_of(model, "relative_error");
  for (size_t i = 0; i < model.spec.layers.size(); ++i)
    for (const Block& block : model.spec.layers[i])
      for (const Linear* linear : linears(block)) facts.tensors.push_back(tensor_facts(model, *linear, static_cast<int64_t>(i), errors));
  facts.tensors.push_back(tensor_facts(model, model.spec.head, -1, errors));
  return facts;
}

}  // namespace tq::report
