#include "model/family.h"

#include <array>
#include <string>

namespace tq {

#define TQ_FAMILY(name, architecture, type, gguf) Result<ModelSpec> parse_##name(const JsonReader& config);
#include "model/families.def"
#undef TQ_FAMILY

namespace {

constexpr std::array kFamilies = {
#define TQ_FAMILY(name, architecture, type, gguf) Family{#name, architecture, type, gguf, parse_##name},
#include "model/families.def"
#undef TQ_FAMILY
};

std::string known_architectures() {
  std::string text;
  for (const Family& family : kFamilies) text += (text.empty() ? "" : ", ") + std::string(family.hf_architecture);
  return text;
}

}  // namespace

std::span<const Family> families() { return kFamilies; }

const Family* family_of_gguf(std::string_view architecture) {
  for (const Family& family : kFamilies)
    if (family.gguf_architecture == architecture) return &family;
  return nullptr;
}

Result<ModelSpec> parse_config(const Json& config, const std::string& where) {
  const JsonReader reader(config, where);
  std::string architecture;
  if (const Json* list = reader.find("architectures"); list && list->is_array() && !list->empty() && (*list)[0].is_string())
    architecture = (*list)[0].get<std::string>();
  TQ_ASSIGN(const std::string type, reader.string_or("model_type", ""));
  for (const Family& family : kFamilies) {
    if (architecture.empty() ? family.hf_model_type != type : family.hf_architecture != architecture) continue;
    TQ_ASSIGN(ModelSpec spec, family.parse(reader));
    spec.family = family.name;
    return spec;
  }
  return bad_input("{}: architecture '{}' is not supported; known: {}", where, architecture.empty() ? type : architecture,
                   known_architectures());
}

}  // namespace tq
