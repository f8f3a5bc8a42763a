#include "run/generation_config.h"

#include <algorithm>

namespace tq {
namespace {

// An id or a list of ids; others are left out.
void add_ids(const Json& config, const char* key, int64_t vocabulary, std::vector<TokenId>& out) {
  if (!config.is_object() || !config.contains(key)) return;
  const auto add = [&](const Json& id) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocabulary) return;
    const auto token = static_cast<TokenId>(id.get<int64_t>());
    if (std::find(out.begin(), out.end(), token) == out.end()) out.push_back(token);
  };
  const Json& value = config[key];
  if (value.is_array()) std::for_each(value.begin(), value.end(), add);
  else add(value);
}

// Fields that a sampling generation_config.json leaves out are transformers' defaults.
Result<SamplerOptions> read_sampler(const JsonReader& reader) {
  TQ_ASSIGN(const double temperature, reader.number_or("temperature", 1.0));
  TQ_ASSIGN(const int64_t top_k, reader.integer_or("top_k", 50, 0, int64_t{1} << 30));
  TQ_ASSIGN(const double top_p, reader.number_or("top_p", 1.0));
  TQ_ASSIGN(const double min_p, reader.number_or("min_p", 0.0));
  TQ_ASSIGN(const double penalty, reader.number_or("repetition_penalty", 1.0));
  if (!(temperature >= 0 && penalty > 0))
    return bad_input("{}: temperature {} or repetition_penalty {} make no sense", reader.where(), temperature, penalty);
  SamplerOptions out;
  out.temperature = static_cast<float>(temperature);
  out.top_k = top_k;
  out.top_p = static_cast<float>(std::clamp(top_p, 0.0, 1.0));
  out.min_p = static_cast<float>(std::clamp(min_p, 0.0, 1.0));
  out.repetition_penalty = static_cast<float>(penalty);
  return out;
}

}  // namespace

Result<GenerationConfig> read_generation_config(const Model& model) {
  GenerationConfig out;
  for (const CarriedFile& file : model.files) {
    if (file.name != "generation_config.json") continue;
    const std::string where = model.source + "/" + file.name;
    TQ_ASSIGN(const Json json, parse_json(file.text, where));
    if (!json.is_object()) return bad_input("{}: an object was expected", where);
    add_ids(json, "eos_token_id", model.spec.vocabulary, out.end_of_turn);
    const JsonReader reader(json, where);
    TQ_ASSIGN(const bool samples, reader.boolean_or("do_sample", false));
    if (samples) {
      TQ_ASSIGN(out.sampler, read_sampler(reader));
    }
  }
  add_ids(model.config, "eos_token_id", model.spec.vocabulary, out.end_of_turn);
  return out;
}

}  // namespace tq
