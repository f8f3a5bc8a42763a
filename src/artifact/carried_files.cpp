#include "artifact/carried_files.h"

#include <filesystem>
#include <map>

#include "base/mapped_file.h"
#include "token/config_tokens.h"
#include "token/tokenizer.h"
#include "token/utf8.h"

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

// Older files of a tokenizer.model say apart from tokenizer_config.json what newer ones say in it. special_tokens_map.json ({"eos_token":
// "</s>", …}) then counts more than the configuration.
void merge_special_tokens(const Json& map, Json& config) {
  if (!map.is_object()) return;
  const bool is_older = !config.contains("added_tokens_decoder");
  const auto merge = [&](const char* key) {
    const auto value = map.find(key);
    if (value == map.end() || value->is_null()) return;
    Json& own = config[key];
    if (own.is_null() || (is_older && !own.is_array())) own = *value;
    else if (is_older && value->is_array()) own.insert(own.end(), value->begin(), value->end());
  };
  for (const char* key : kNamedTokens) merge(key);
  merge("additional_special_tokens");
}

// added_tokens.json: {"<|im_start|>": 32000, …}
Status merge_added_tokens(const Json& added, const std::string& where, Json& config) {
  if (!added.is_object()) return bad_input("{}: an object of tokens and their ids was expected", where);
  Json& listed = config["added_tokens_decoder"];
  if (listed.is_null()) listed = Json::object();
  if (!listed.is_object()) return {};           // the tokenizer says what is wrong
  std::map<std::string, std::string> contents;  // by id; objects of JSON are searched from end to end
  for (const auto& [id, token] : listed.items())
    if (is_text(token, "content")) contents.emplace(id, token["content"].get<std::string>());
  for (const auto& [content, id] : added.items()) {
    if (!id.is_number_integer()) return bad_input("{}: the id of '{}' makes no sense", where, utf8_front(content));
    const auto [known, is_new] = contents.emplace(id.dump(), content);
    if (is_new) append_member(listed, id.dump(), {{"content", content}});
    else if (known->second != content)
      return bad_input("{}: '{}' and '{}' have the same id {}", where, utf8_front(known->second), utf8_front(content), known->first);
  }
  return {};
}

// The configuration of a tokenizer.model with what other files say about its tokens.
Result<Json> sentencepiece_config(const Model& model, const Json& tokenizer_config) {
  Json config = tokenizer_config.is_object() ? tokenizer_config : Json::object();
  TQ_ASSIGN(const Json map, carried_json(model, "special_tokens_map.json"));
  merge_special_tokens(map, config);
  TQ_ASSIGN(const Json added, carried_json(model, "added_tokens.json"));
  TQ_TRY(merge_added_tokens(added, model.source + "/added_tokens.json", config));
  return config;
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
    TQ_ASSIGN(const Json whole, sentencepiece_config(model, config));
    TQ_ASSIGN(const Tokenizer tokenizer, Tokenizer::from_sentencepiece(bytes, whole, model.source + "/tokenizer.model"));
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
