// Tokenizers from Hugging Face's tokenizer.json.
#include <map>

#include "token/config_tokens.h"
#include "token/json_steps.h"
#include "token/tokenizer_impl.h"

namespace tq {
namespace {

constexpr int64_t kLargestId = int64_t{1} << 28;

Status set_token(TokenizerImpl& impl, const std::string& token, int64_t id, size_t count) {
  if (id < 0 || id >= kLargestId || static_cast<size_t>(id) >= 16 * count + 1024)
    return bad_input("{}: token '{}' has the id {} in a vocabulary of {}", impl.where, token.substr(0, 40), id, count);
  if (impl.tokens.size() <= static_cast<size_t>(id)) impl.tokens.resize(static_cast<size_t>(id) + 1);
  impl.tokens[static_cast<size_t>(id)] = token;
  return {};
}

// Vocabularies are objects of 10^5 members: walked once, never searched.
Status read_vocabulary(const Json& model, TokenizerImpl& impl) {
  const auto vocabulary = model.find("vocab");
  if (vocabulary == model.end() || !vocabulary->is_object()) return bad_input("{}: model.vocab should be an object", impl.where);
  for (const auto& [token, value] : vocabulary->items()) {
    if (!value.is_number_integer()) return bad_input("{}: the id of token '{}' makes no sense", impl.where, token.substr(0, 40));
    TQ_TRY(set_token(impl, token, value.get<int64_t>(), vocabulary->size()));
  }
  return {};
}

// [["piece", score], …]
Status read_scored_vocabulary(const Json& model, TokenizerImpl& impl) {
  const auto vocabulary = model.find("vocab");
  if (vocabulary == model.end() || !vocabulary->is_array()) return bad_input("{}: model.vocab should be a list", impl.where);
  for (const Json& entry : *vocabulary) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
      return bad_input("{}: entry {} of model.vocab is no piece with a score", impl.where, impl.tokens.size());
    impl.tokens.push_back(entry[0].get<std::string>());
    impl.scores.push_back(entry[1].get<float>());
  }
  return {};
}

Status read_merges(const Json& model, TokenizerImpl& impl) {
  const auto merges = model.find("merges");
  if (merges == model.end() || !merges->is_array()) return bad_input("{}: model.merges should be a list", impl.where);
  int32_t rank = 0;
  for (const Json& merge : *merges) {
    std::string left, right;
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ', 1);
      if (space == std::string::npos) return bad_input("{}: merge {} has no two parts", impl.where, rank);
      left = text.substr(0, space), right = text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>(), right = merge[1].get<std::string>();
    } else {
      return bad_input("{}: merge {} is neither a text nor a pair", impl.where, rank);
    }
    const std::string joined = left + (right.starts_with(impl.subword_prefix) ? right.substr(impl.subword_prefix.size()) : right);
    const auto a = impl.ids.find(left), b = impl.ids.find(right), ab = impl.ids.find(joined);
    if (a != impl.ids.end() && b != impl.ids.end() && ab != impl.ids.end())
      impl.merges.emplace(pair_key(a->second, b->second), Merge{rank, ab->second});
    ++rank;
  }
  return {};
}

Status read_model(const Json& json, TokenizerImpl& impl) {
  const auto model = json.find("model");
  if (model == json.end() || !model->is_object()) return bad_input("{}: there is no model", impl.where);
  const JsonReader reader(*model, impl.where + " model");
  TQ_ASSIGN(const std::string type, reader.string_or("type", model->contains("merges") ? "BPE" : "unknown"));
  static const std::map<std::string, Algorithm> kAlgorithms = {{"BPE", Algorithm::kBpe},
                                                               {"Unigram", Algorithm::kUnigram},
                                                               {"WordPiece", Algorithm::kWordPiece},
                                                               {"WordLevel", Algorithm::kWordLevel}};
  const auto found = kAlgorithms.find(type);
  if (found == kAlgorithms.end())
    return bad_input("{}: tokenizers of the type {} are not supported (BPE, Unigram, WordPiece and WordLevel are)", impl.where, type);
  impl.algorithm = found->second;
  TQ_ASSIGN(impl.subword_prefix, reader.string_or("continuing_subword_prefix", impl.algorithm == Algorithm::kWordPiece ? "##" : ""));
  TQ_ASSIGN(impl.word_suffix, reader.string_or("end_of_word_suffix", ""));
  TQ_ASSIGN(impl.byte_fallback, reader.boolean_or("byte_fallback", false));
  TQ_ASSIGN(impl.fuse_unknown, reader.boolean_or("fuse_unk", impl.algorithm == Algorithm::kUnigram));
  TQ_ASSIGN(impl.ignore_merges, reader.boolean_or("ignore_merges", false));
  if (impl.algorithm == Algorithm::kWordPiece) {
    TQ_ASSIGN(impl.longest_word, reader.integer_or("max_input_chars_per_word", 100, 0, int64_t{1} << 40));
  }
  if (impl.algorithm != Algorithm::kUnigram) return read_vocabulary(*model, impl);
  TQ_TRY(read_scored_vocabulary(*model, impl));
  const auto size = static_cast<int64_t>(impl.tokens.size());
  TQ_ASSIGN(const int64_t unknown, reader.integer_or("unk_id", -1, -1, size - 1));
  impl.unknown = static_cast<TokenId>(unknown);
  return {};
}

Status read_added(const Json& json, TokenizerImpl& impl) {
  const auto added = json.find("added_tokens");
  if (added == json.end() || added->is_null()) return {};
  if (!added->is_array()) return bad_input("{}: added_tokens should be a list", impl.where);
  for (const Json& entry : *added) {
    const JsonReader reader(entry, impl.where + " added_tokens");
    TQ_ASSIGN(AddedToken token, read_added_token(reader));
    TQ_ASSIGN(const int64_t id, reader.integer("id", 0, static_cast<int64_t>(impl.tokens.size() + added->size()) * 16 + 1024));
    token.id = static_cast<TokenId>(id);
    if (impl.tokens.size() <= static_cast<size_t>(id)) impl.tokens.resize(static_cast<size_t>(id) + 1);
    impl.tokens[static_cast<size_t>(id)] = token.content;
    impl.added.add(std::move(token));
  }
  return {};
}

Status read_config(const Json& config, TokenizerImpl& impl) {
  const auto id_of = [&](const char* key) -> TokenId {
    const auto found = impl.ids.find(token_name(config, key));
    return found == impl.ids.end() ? -1 : found->second;
  };
  impl.bos = id_of("bos_token"), impl.eos = id_of("eos_token"), impl.pad = id_of("pad_token");
  if (impl.unknown < 0) impl.unknown = id_of("unk_token");
  const JsonReader reader(config, impl.where + " tokenizer_config.json");
  TQ_ASSIGN(const bool add_bos, reader.boolean_or("add_bos_token", false));
  TQ_ASSIGN(const bool add_eos, reader.boolean_or("add_eos_token", false));
  if (add_bos && impl.prefix.empty() && impl.bos >= 0) impl.prefix = {impl.bos};
  if (add_eos && impl.suffix.empty() && impl.eos >= 0) impl.suffix = {impl.eos};
  return {};
}

}  // namespace

Result<Tokenizer> Tokenizer::from_json(const Json& json, const Json& config, const std::string& where) {
  if (!json.is_object()) return bad_input("{}: an object was expected", where);
  auto impl = std::make_shared<TokenizerImpl>();
  impl->where = where;
  TQ_TRY(read_model(json, *impl));
  TQ_TRY(read_added(json, *impl));
  for (size_t i = 0; i < impl->tokens.size(); ++i)  // an id that no token has is ""
    if (!impl->tokens[i].empty()) impl->ids.emplace(impl->tokens[i], static_cast<TokenId>(i));
  if (impl->algorithm == Algorithm::kBpe) TQ_TRY(read_merges(json["model"], *impl));
  const auto part = [&](const char* key) -> const Json& {
    static const Json kNull;
    const auto found = json.find(key);
    return found == json.end() ? kNull : *found;
  };
  TQ_TRY(read_normalizer(part("normalizer"), *impl));
  TQ_TRY(read_pre_tokenizer(part("pre_tokenizer"), *impl));
  TQ_TRY(read_post_processor(part("post_processor"), *impl));
  TQ_TRY(read_decoder(part("decoder"), *impl));
  if (const std::string name = token_name(json["model"], "unk_token"); !name.empty())
    if (const auto found = impl->ids.find(name); found != impl->ids.end()) impl->unknown = found->second;
  TQ_TRY(read_config(config, *impl));
  impl->source = json;
  TQ_TRY(impl->finish());
  return Tokenizer(std::move(impl));
}

}  // namespace tq
