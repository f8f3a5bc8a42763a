#include "artifact/carried_files.h"

#include <filesystem>

#include "base/mapped_file.h"
#include "token/tokenizer.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestCarriedFile = size_t{64} << 20;

// Files that travel with a model: what tokenizers and people need.
constexpr const char* kCarried[] = {"tokenizer.json",
                                    "tokenizer.model",
                                    "tokenizer_config.json",
                                    "special_tokens_map.json",
                                    "added_tokens.json",
                                    "vocab.json",
                                    "merges.txt",
                                    "chat_template.jinja",
                                    "generation_config.json",
                                    "LICENSE",
                                    "LICENSE.txt",
                                    "LICENSE.md",
                                    "NOTICE",
                                    "NOTICE.txt",
                                    "USE_POLICY.md"};

const CarriedFile* carried(const Model& model, std::string_view name) {
  for (const CarriedFile& file : model.files)
    if (file.name == name) return &file;
  return nullptr;
}

Result<Json> carried_json(const Model& model, std::string_view name) {
  const CarriedFile* file = carried(model, name);
  if (!file) return Json(Json::object());
  return parse_json(file->text, fmt::format("{}/{}", model.source, name));
}

bool is_text(const Json& object, const char* key) {
  const auto field = object.find(key);
  return field != object.end() && field->is_string();
}

// chat_template.jinja, or the field of tokenizer_config.json: a string, or a list of named ones of which "default" counts.
std::string find_chat_template(const Model& model, const Json& tokenizer_config) {
  if (const CarriedFile* file = carried(model, "chat_template.jinja")) return file->text;
  const auto field = tokenizer_config.find("chat_template");
  if (field == tokenizer_config.end()) return {};
  if (field->is_string()) return field->get<std::string>();
  if (field->is_array())
    for (const Json& entry : *field)
      if (is_text(entry, "name") && entry["name"] == "default" && is_text(entry, "template")) return entry["template"].get<std::string>();
  return {};
}

Status use(const Tokenizer& tokenizer, Model& model) {
  TQ_ASSIGN(Tokenizer own, tokenizer.for_rows(model.spec.vocabulary));
  model.tokenizer = std::make_shared<const Tokenizer>(std::move(own));
  return {};
}

Status read_tokenizer(Model& model) {
  TQ_ASSIGN(const Json config, carried_json(model, "tokenizer_config.json"));
  model.chat_template = find_chat_template(model, config);
  if (carried(model, "tokenizer.json")) {
    TQ_ASSIGN(const Json json, carried_json(model, "tokenizer.json"));
    TQ_ASSIGN(const Tokenizer tokenizer, Tokenizer::from_json(json, config, model.source + "/tokenizer.json"));
    return use(tokenizer, model);
  } else if (const CarriedFile* file = carried(model, "tokenizer.model")) {
    const auto bytes = std::as_bytes(std::span<const char>(file->text));
    TQ_ASSIGN(const Tokenizer tokenizer, Tokenizer::from_sentencepiece(bytes, config, model.source + "/tokenizer.model"));
    return use(tokenizer, model);
  }
  return {};
}

}  // namespace

Status read_carried_files(const std::string& directory, Model& model) {
  for (const char* name : kCarried) {
    const std::string path = directory + "/" + name;
    std::error_code error;
    const fs::file_type type = fs::status(path, error).type();
    if (type == fs::file_type::none) return bad_input("{}: cannot be examined ({})", path, error.message());
    if (type != fs::file_type::regular) continue;
    TQ_ASSIGN(std::string text, read_text_file(path, kLargestCarriedFile));
    model.source_parts.push_back(path);
    model.files.push_back({name, std::move(text)});
  }
  return read_tokenizer(model);
}

}  // namespace tq
