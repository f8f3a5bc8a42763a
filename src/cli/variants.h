// What `tq compare` compares: methods with the settings that they are usually shown with.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quantize/plan.h"

namespace tq::cli {

struct Variant {
  std::string_view name;   // of --methods, of folders and in compare.json
  std::string_view label;  // in tables and pictures; groups are added
  Method method;
  bool has_groups = false;  // of columns that share a scale; else a row is one
  bool is_tuned = false;    // blocks and the whole model are tuned, whatever the flags say
};
std::span<const Variant> variants();
std::string variant_names();  // "turboquant, rtn, …"
// "all", or names with commas between. Errors: kUsage.
Result<std::vector<Variant>> variants_of(const std::string& list);

// "GPTQ g128", or "GPTQ g64/128" where 128 does not divide every matrix.
std::string label_of(const Variant& variant, const QuantizePlan& plan);

// What of the source, the texts and the options that an artifact's record names is not the plan's: "calibration_tokens: 2048, not 4096";
// empty: nothing.
std::string other_options(const Json& record, const Model& model, const QuantizePlan& plan);

}  // namespace tq::cli
