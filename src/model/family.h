// Families: what a configuration of each architecture means. Adding one = a file in family/ and a line in families.def.
#pragma once

#include <span>
#include <string_view>

#include "base/json.h"
#include "model/spec.h"

namespace tq {

struct Family {
  std::string_view name;
  std::string_view hf_architecture;    // config.json "architectures"[0]
  std::string_view hf_model_type;      // config.json "model_type"
  std::string_view gguf_architecture;  // "general.architecture"
  Result<ModelSpec> (*parse)(const JsonReader& config);
};

std::span<const Family> families();
const Family* family_of_gguf(std::string_view architecture);  // the first that names it, or nullptr

// Picks the family by "architectures", else by "model_type". Errors: kBadInput with the list of what is known.
Result<ModelSpec> parse_config(const Json& config, const std::string& where);

}  // namespace tq
