#include "model/wrapper.h"

#include "model/family.h"

namespace tq {
namespace {

// Gemma3TextConfig of transformers; its writer leaves out what equals these.
Json defaults_of(std::string_view model_type) {
  if (model_type != "gemma3_text") return Json::object();
  return {{"vocab_size", 262208},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 4},
          {"head_dim", 256},
          {"max_position_embeddings", 131072}};
}

const Family* family_of_type(const Json& text) {
  const auto type = text.find("model_type");
  if (type == text.end() || !type->is_string()) return nullptr;
  for (const Family& family : families())
    if (family.hf_model_type == type->get<std::string>()) return &family;
  return nullptr;
}

void add_missing(Json& to, const Json& from) {
  for (const auto& [key, value] : from.items())
    if (const auto found = to.find(key); found == to.end() || found->is_null()) to[key] = value;
}

}  // namespace

Json language_config(const Json& config) {
  const auto text = config.is_object() ? config.find("text_config") : config.end();
  if (text == config.end() || !text->is_object()) return config;
  const Family* family = family_of_type(*text);
  if (!family) return config;
  Json out = {{"architectures", Json::array({family->hf_architecture})}};
  for (const auto& [key, value] : text->items())
    if (key != "architectures") out[key] = value;
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "torch_dtype", "dtype"})
    if (const auto found = config.find(key); found != config.end()) add_missing(out, Json{{key, *found}});
  add_missing(out, defaults_of(family->hf_model_type));
  return out;
}

}  // namespace tq
