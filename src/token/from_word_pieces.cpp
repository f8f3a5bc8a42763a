// BERT's vocabularies in GGUF: the pieces that begin a word are written with ▁ in front, the others without BERT's ##.
#include <algorithm>
#include <unordered_set>

#include "token/tokenizer_impl.h"

namespace tq {
namespace {

constexpr std::string_view kWordMark = "\xe2\x96\x81";

// As tokenizer.json spells it.
std::string spelled(const std::string& token, TokenKind kind) {
  if (kind == TokenKind::kControl || kind == TokenKind::kUnknown || kind == TokenKind::kUserDefined) return token;
  return token.starts_with(kWordMark) ? token.substr(kWordMark.size()) : "##" + token;
}

// The id that the file names, else that of BERT's own name for it.
TokenId special_id(const std::vector<std::string>& tokens, TokenId named, const char* name) {
  if (named >= 0) return named;
  const auto found = std::find(tokens.begin(), tokens.end(), name);
  return found == tokens.end() ? -1 : static_cast<TokenId>(found - tokens.begin());
}

// [CLS] A [SEP]
Json frame(const std::vector<std::string>& tokens, TokenId first, TokenId last) {
  Json special = Json::object(), single = Json::array();
  const auto add = [&](TokenId id) {
    if (id < 0) return;
    const std::string& name = tokens[static_cast<size_t>(id)];
    special[name] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
    single.push_back({{"SpecialToken", {{"id", name}, {"type_id", 0}}}});
  };
  add(first);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(last);
  Json pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

}  // namespace

// BERT's texts: control characters go, everything is lower case and without accents (as llama.cpp reads all of these files).
Result<Tokenizer> word_piece_tokenizer(const VocabularySpec& spec, const std::string& where) {
  std::vector<std::string> tokens;
  std::unordered_set<std::string> seen;
  Json vocabulary = Json::object(), added = Json::array();
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const TokenKind kind = spec.kinds.empty() ? TokenKind::kNormal : spec.kinds[i];
    tokens.push_back(spec.tokens[i].empty() ? "" : spelled(spec.tokens[i], kind));
    if (tokens.back().empty()) continue;  // an id without a token
    if (seen.insert(tokens.back()).second) append_member(vocabulary, tokens.back(), i);
    if (tokens.back() != spec.tokens[i]) continue;
    added.push_back({{"id", i},
                     {"content", tokens.back()},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", kind != TokenKind::kUserDefined}});
  }
  const TokenId unknown = special_id(tokens, spec.unknown, "[UNK]");
  const TokenId first = special_id(tokens, spec.bos, "[CLS]"), last = special_id(tokens, spec.eos, "[SEP]");
  if (unknown < 0 || tokens[static_cast<size_t>(unknown)].empty())
    return bad_input("{}: a word-piece vocabulary without an unknown token", where);
  const auto name_of = [&](TokenId id) { return id >= 0 ? Json(tokens[static_cast<size_t>(id)]) : Json(nullptr); };
  const Json json = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer",
       {{"type", "BertNormalizer"}, {"clean_text", true}, {"handle_chinese_chars", true}, {"strip_accents", nullptr}, {"lowercase", true}}},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"post_processor", frame(tokens, spec.add_bos ? first : -1, spec.add_eos ? last : -1)},
      {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", false}}},
      {"model",
       {{"type", "WordPiece"},
        {"unk_token", name_of(unknown)},
        {"continuing_subword_prefix", "##"},
        {"max_input_chars_per_word", 100},
        {"vocab", vocabulary}}}};
  const Json config = {
      {"bos_token", name_of(first)}, {"eos_token", name_of(last)}, {"unk_token", name_of(unknown)}, {"pad_token", name_of(spec.pad)}};
  return Tokenizer::from_json(json, config, where);
}

}  // namespace tq
