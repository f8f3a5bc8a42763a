#include "cli/variants.h"

#include <algorithm>
#include <set>

#include "base/json_text.h"
#include "cli/comma_list.h"
#include "quantize/card.h"

namespace tq::cli {
namespace {

constexpr Variant kVariants[] = {
    {"turboquant", "TurboQuant", Method::kTurboquant},         {"rtn", "RTN", Method::kRtn, true},
    {"rtn-channel", "RTN per channel", Method::kRtn},          {"gptq", "GPTQ", Method::kGptq, true},
    {"gptq-channel", "GPTQ per channel", Method::kGptq},       {"awq", "AWQ", Method::kAwq, true},
    {"awq-channel", "AWQ per channel", Method::kAwq},          {"quip", "QuIP#", Method::kQuip},
    {"quip-tuned", "QuIP# tuned", Method::kQuip, false, true},
};

// Of a record: what it was made from and what was asked for, not what came out of it. Objects have keys of their own.
constexpr std::string_view kAsked[] = {"source",
                                       "source_hash",
                                       "method",
                                       "bits",
                                       "embedding_bits",
                                       "head_bits",
                                       "group",
                                       "act_order",
                                       "effort",
                                       "windows",
                                       "calibration",
                                       "calibration_hashes",
                                       "calibration_tokens",
                                       "calibration_sequence",
                                       "gradients",
                                       "allocate",
                                       "damping",
                                       "passes",
                                       "seed"};
constexpr std::pair<std::string_view, std::string_view> kAskedOfStages[] = {{"block_calibration", "steps"},
                                                                            {"block_calibration", "sequences"},
                                                                            {"block_calibration", "weight_rate"},
                                                                            {"block_calibration", "vector_rate"},
                                                                            {"tuning", "steps"}};

// null where there is none.
Json value_of(const Json& record, std::string_view key) {
  const auto found = record.find(key);
  return found == record.end() ? Json() : *found;
}

// null where it was off, for which earlier versions wrote no steps.
Json stage_of(const Json& record, std::string_view stage) {
  Json out = value_of(record, stage);
  return out.is_object() && value_of(out, "steps") == 0 && stage == "tuning" ? Json() : out;
}

std::string difference(std::string_view name, const Json& is, const Json& wanted) {
  return is == wanted ? "" : fmt::format("{}: {}, not {}", name, json_text(is), json_text(wanted));
}

}  // namespace

std::span<const Variant> variants() { return kVariants; }

std::string variant_names() {
  std::string out;
  for (const Variant& variant : kVariants) out += fmt::format("{}{}", out.empty() ? "" : ", ", variant.name);
  return out;
}

Result<std::vector<Variant>> variants_of(const std::string& list) {
  if (list == "all") return std::vector<Variant>(std::begin(kVariants), std::end(kVariants));
  std::vector<Variant> out;
  for (const std::string& name : split_at_commas(list)) {
    const auto found = std::find_if(std::begin(kVariants), std::end(kVariants), [&](const Variant& each) { return each.name == name; });
    if (found == std::end(kVariants)) return bad_usage("--methods {}: give all, or some of {}", list, variant_names());
    if (std::none_of(out.begin(), out.end(), [&](const Variant& each) { return each.name == name; })) out.push_back(*found);
  }
  return out;
}

std::string label_of(const Variant& variant, const QuantizePlan& plan) {
  if (!variant.has_groups) return std::string(variant.label);
  std::set<int64_t> groups;
  for (const auto& layer : plan.layers)
    for (const TensorPlan& tensor : layer) groups.insert(tensor.group);
  std::string text;
  for (const int64_t group : groups) text += fmt::format("{}{}", text.empty() ? "g" : "/", group);
  return fmt::format("{} {}", variant.label, text);
}

std::string other_options(const Json& record, const Model& model, const QuantizePlan& plan) {
  const Json wanted = Json::parse(record_text(model, plan, {.origin = origin_of(model, plan.options)}));
  for (const std::string_view key : kAsked)
    if (const std::string text = difference(key, value_of(record, key), value_of(wanted, key)); !text.empty()) return text;
  for (const auto& [stage, key] : kAskedOfStages) {
    const Json is = stage_of(record, stage), expected = stage_of(wanted, stage);
    if (is.is_object() != expected.is_object()) return fmt::format("{}: {}", stage, is.is_object() ? "on, not off" : "off, not on");
    if (!is.is_object()) continue;
    const std::string text = difference(fmt::format("{} {}", stage, key), value_of(is, key), value_of(expected, key));
    if (!text.empty()) return text;
  }
  return {};
}

}  // namespace tq::cli
