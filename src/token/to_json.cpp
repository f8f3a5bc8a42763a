// Export in the format of Hugging Face's tokenizers.
#include "token/tokenizer_impl.h"

namespace tq {
namespace {

Json added_json(const AddedToken& token) {
  return {{"id", token.id},
          {"content", token.content},
          {"single_word", token.single_word},
          {"lstrip", token.strip_left},
          {"rstrip", token.strip_right},
          {"normalized", false},
          {"special", token.special}};
}

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json pre_tokenizer(const TokenizerImpl& impl) {
  if (!impl.byte_level) return nullptr;
  Json steps = Json::array();
  for (const PreStep& step : impl.pretokenizer)
    if (const auto* split = std::get_if<SplitStep>(&step))
      steps.push_back({{"type", "Split"}, {"pattern", {{"Regex", split->regex.pattern()}}}, {"behavior", "Isolated"}, {"invert", false}});
  steps.push_back(byte_level(false, false));
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

Json normalizer(const TokenizerImpl& impl) {
  if (impl.byte_level) return nullptr;
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
  if (!impl.prefix_after_special) return replace;
  return {{"type", "Sequence"}, {"normalizers", Json::array({{{"type", "Prepend"}, {"prepend", "▁"}}, replace})}};
}

Json decoder(const TokenizerImpl& impl) {
  if (impl.byte_level) return byte_level(false, false);
  Json steps = Json::array(
      {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}}, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (impl.strip_leading_space) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", steps}};
}

// "<s> A": the special tokens around a text.
Json post_processor(const TokenizerImpl& impl) {
  if (impl.prefix.empty() && impl.suffix.empty()) return nullptr;
  Json special = Json::object();
  const auto entry = [&](TokenId id) -> Json {
    const std::string& name = impl.tokens[static_cast<size_t>(id)];
    special[name] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
    return {{"SpecialToken", {{"id", name}, {"type_id", 0}}}};
  };
  Json single = Json::array(), pair = Json::array();
  for (const char* sequence : {"A", "B"}) {
    const int type_id = sequence[0] == 'B';
    const Json text = {{"Sequence", {{"id", sequence}, {"type_id", type_id}}}};
    for (const TokenId id : impl.prefix) pair.push_back(entry(id));
    pair.push_back(text);
    for (const TokenId id : impl.suffix) pair.push_back(entry(id));
    if (sequence[0] == 'A') single = pair;
  }
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

}  // namespace

Json Tokenizer::to_tokenizer_json() const {
  const TokenizerImpl& impl = *impl_;
  if (!impl.source.is_null()) return impl.source;
  Json vocabulary = Json::object();
  for (size_t i = 0; i < impl.tokens.size(); ++i) {  // tokens without text, and the second of a text, keep their ids by being left out
    const auto found = impl.ids.find(impl.tokens[i]);
    if (found != impl.ids.end() && found->second == static_cast<TokenId>(i)) append_member(vocabulary, impl.tokens[i], i);
  }
  Json merges = Json::array();
  for (const std::string& merge : impl.merge_list) {
    const size_t space = merge.find(' ', 1);
    merges.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  Json added = Json::array();
  for (const AddedToken& token : impl.added.all()) added.push_back(added_json(token));
  const bool has_unknown = !impl.byte_level && impl.unknown >= 0 && !impl.tokens[static_cast<size_t>(impl.unknown)].empty();
  const Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", has_unknown ? Json(impl.tokens[static_cast<size_t>(impl.unknown)]) : Json(nullptr)},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", impl.fuse_unknown},
                      {"byte_fallback", impl.byte_fallback},
                      {"ignore_merges", impl.ignore_merges},
                      {"vocab", vocabulary},
                      {"merges", merges}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", normalizer(impl)},
          {"pre_tokenizer", pre_tokenizer(impl)},
          {"post_processor", post_processor(impl)},
          {"decoder", decoder(impl)},
          {"model", model}};
}

Json Tokenizer::to_tokenizer_config() const {
  const TokenizerImpl& impl = *impl_;
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto name = [&](const char* key, TokenId id) {
    if (id >= 0 && !impl.tokens[static_cast<size_t>(id)].empty()) config[key] = impl.tokens[static_cast<size_t>(id)];
  };
  name("bos_token", impl.bos);
  name("eos_token", impl.eos);
  name("unk_token", impl.unknown);
  name("pad_token", impl.pad);
  config["add_bos_token"] = !impl.prefix.empty();
  config["add_eos_token"] = !impl.suffix.empty();
  return config;
}

}  // namespace tq
