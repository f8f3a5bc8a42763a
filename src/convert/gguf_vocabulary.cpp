#include "convert/gguf_vocabulary.h"

#include "base/json_text.h"
#include "io/text.h"
#include "token/tokenizer.h"

namespace tq {
namespace {

constexpr int64_t kLargestId = int64_t{1} << 28;
constexpr size_t kLongestMessage = 4096;

Result<VocabularySpec::Model> vocabulary_model(const gguf::File& file) {
  TQ_ASSIGN(const std::string model, file.string("tokenizer.ggml.model"));
  if (model == "gpt2") return VocabularySpec::Model::kByteBpe;
  if (model == "llama") return VocabularySpec::Model::kSpm;
  if (model == "bert") return VocabularySpec::Model::kWordPiece;
  return bad_input("{}: vocabularies of the kind '{}' are not supported (gpt2, llama and bert are)", file.where(), shown(model));
}

// GGUF's token types are those of SentencePiece, counted from 1.
TokenKind kind_of(int64_t type) {
  switch (type) {
    case 2: return TokenKind::kUnknown;
    case 3: return TokenKind::kControl;
    case 4: return TokenKind::kUserDefined;
    case 5: return TokenKind::kUnused;
    case 6: return TokenKind::kByte;
    default: return TokenKind::kNormal;
  }
}

Result<VocabularySpec> read_spec(const gguf::File& file) {
  VocabularySpec spec{};
  TQ_ASSIGN(spec.model, vocabulary_model(file));
  const bool is_spm = spec.model == VocabularySpec::Model::kSpm, is_bert = spec.model == VocabularySpec::Model::kWordPiece;
  TQ_ASSIGN(spec.pre, file.string_or("tokenizer.ggml.pre", ""));
  TQ_ASSIGN(spec.tokens, file.strings("tokenizer.ggml.tokens"));
  if (file.has("tokenizer.ggml.scores")) {
    TQ_ASSIGN(const std::vector<double> scores, file.numbers("tokenizer.ggml.scores"));
    spec.scores.assign(scores.begin(), scores.end());
  }
  if (file.has("tokenizer.ggml.merges")) {
    TQ_ASSIGN(spec.merges, file.strings("tokenizer.ggml.merges"));
  }
  if (file.has("tokenizer.ggml.token_type")) {
    TQ_ASSIGN(const std::vector<int64_t> types, file.integers("tokenizer.ggml.token_type"));
    for (const int64_t type : types) spec.kinds.push_back(kind_of(type));
  }
  const auto read_id = [&](std::string_view key, TokenId& id) -> Status {
    TQ_ASSIGN(const int64_t value, file.integer_or(key, id, -1, kLargestId));
    id = static_cast<TokenId>(value);
    return {};
  };
  TQ_TRY(read_id("tokenizer.ggml.bos_token_id", spec.bos));
  TQ_TRY(read_id("tokenizer.ggml.eos_token_id", spec.eos));
  TQ_TRY(read_id("tokenizer.ggml.unknown_token_id", spec.unknown));
  TQ_TRY(read_id("tokenizer.ggml.padding_token_id", spec.pad));
  // BERT's two ends have names of their own there; the second is spelled so.
  if (is_bert && spec.bos < 0) TQ_TRY(read_id("tokenizer.ggml.cls_token_id", spec.bos));
  if (is_bert && spec.eos < 0) TQ_TRY(read_id("tokenizer.ggml.seperator_token_id", spec.eos));
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    TokenId id = -1;
    TQ_TRY(read_id(key, id));
    if (id >= 0) spec.end_of_turn.push_back(id);
  }
  TQ_ASSIGN(spec.add_bos, file.boolean_or("tokenizer.ggml.add_bos_token", is_spm || is_bert));
  TQ_ASSIGN(spec.add_eos, file.boolean_or("tokenizer.ggml.add_eos_token", is_bert));
  TQ_ASSIGN(spec.add_space_prefix, file.boolean_or("tokenizer.ggml.add_space_prefix", is_spm));
  TQ_ASSIGN(spec.remove_extra_whitespaces, file.boolean_or("tokenizer.ggml.remove_extra_whitespaces", false));
  return spec;
}

}  // namespace

Status read_gguf_vocabulary(const gguf::File& file, Model& model) {
  if (!file.has("tokenizer.ggml.tokens")) return {};
  TQ_ASSIGN(VocabularySpec spec, read_spec(file));
  const auto whole = Tokenizer::from_vocabulary(std::move(spec), file.where());
  if (!whole) return fail(whole.error().code, "{}", shown(whole.error().message, kLongestMessage));  // it quotes the file's strings
  TQ_ASSIGN(Tokenizer tokenizer, whole->for_rows(model.spec.vocabulary > 0 ? model.spec.vocabulary : whole->size()));
  TQ_ASSIGN(model.chat_template, file.string_or("tokenizer.chat_template", ""));
  Json config = tokenizer.to_tokenizer_config();
  config["model_max_length"] = model.spec.context;
  if (!model.chat_template.empty()) config["chat_template"] = model.chat_template;
  // Strings of the file need not be UTF-8: what is not becomes U+FFFD.
  model.files.push_back({"tokenizer.json", json_text(tokenizer.to_tokenizer_json(), -1)});
  model.files.push_back({"tokenizer_config.json", json_text(config, 2) + "\n"});
  const Json generation = {{"bos_token_id", tokenizer.bos() >= 0 ? Json(tokenizer.bos()) : Json(nullptr)},
                           {"eos_token_id", tokenizer.end_of_turn()}};
  if (!tokenizer.end_of_turn().empty()) model.files.push_back({"generation_config.json", json_text(generation, 2) + "\n"});
  model.tokenizer = std::make_shared<const Tokenizer>(std::move(tokenizer));
  return {};
}

}  // namespace tq
