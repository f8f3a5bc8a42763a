#include "token/json_steps.h"

#include <cctype>
#include <map>

namespace tq {
namespace {

// The members of a Sequence under any of its names, or the part itself.
Result<std::vector<const Json*>> steps_of(const Json& json, const char* list, const std::string& where) {
  std::vector<const Json*> out;
  if (json.is_null()) return out;
  const JsonReader reader(json, where);
  TQ_ASSIGN(const std::string type, reader.string("type"));
  if (type != "Sequence") return std::vector<const Json*>{&json};
  const Json* members = reader.find(list);
  if (!members || !members->is_array()) return bad_input("{}: a Sequence without '{}'", where, list);
  for (const Json& member : *members) {
    TQ_ASSIGN(const std::vector<const Json*> inner, steps_of(member, list, where));
    out.insert(out.end(), inner.begin(), inner.end());
  }
  return out;
}

// {"String": …} or {"Regex": …}
struct Pattern {
  std::string text;
  bool is_regex;
};

Result<Pattern> read_pattern(const JsonReader& reader) {
  const Json* pattern = reader.find("pattern");
  if (!pattern || !pattern->is_object()) return bad_input("{}: 'pattern' is missing", reader.where());
  const JsonReader inner(*pattern, reader.where() + " pattern");
  if (inner.has("String")) {
    TQ_ASSIGN(std::string text, inner.string("String"));
    return Pattern{std::move(text), false};
  }
  TQ_ASSIGN(std::string text, inner.string("Regex"));
  return Pattern{std::move(text), true};
}

// The text as an expression.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::ispunct(static_cast<unsigned char>(c))) out += '\\';
    out += c;
  }
  return out;
}

Result<SplitBehavior> read_behavior(const JsonReader& reader, std::string_view fallback) {
  static const std::map<std::string, SplitBehavior> kNames = {{"Removed", SplitBehavior::kRemoved},
                                                              {"Isolated", SplitBehavior::kIsolated},
                                                              {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
                                                              {"MergedWithNext", SplitBehavior::kMergedWithNext},
                                                              {"Contiguous", SplitBehavior::kContiguous}};
  TQ_ASSIGN(const std::string name, reader.string_or("behavior", fallback));
  const auto found = kNames.find(name);
  if (found == kNames.end()) return bad_input("{}: behavior '{}' is not known", reader.where(), name);
  return found->second;
}

Status add_split(TokenizerImpl& impl, const std::string& pattern, SplitBehavior behavior, bool invert = false) {
  TQ_ASSIGN(Regex regex, Regex::compile(pattern, impl.where));
  impl.pretokenizer.push_back(SplitStep{std::move(regex), behavior, invert});
  return {};
}

Status read_byte_level(const JsonReader& reader, TokenizerImpl& impl) {
  TQ_ASSIGN(const bool add_prefix_space, reader.boolean_or("add_prefix_space", true));
  TQ_ASSIGN(const bool use_regex, reader.boolean_or("use_regex", true));
  impl.byte_level = true;
  if (add_prefix_space) impl.pretokenizer.push_back(PrefixSpace{});
  if (use_regex) TQ_TRY(add_split(impl, gpt2_pattern(), SplitBehavior::kIsolated));
  impl.pretokenizer.push_back(ByteLevel{});
  return {};
}

Status read_metaspace(const JsonReader& reader, TokenizerImpl& impl) {
  Metaspace step;
  TQ_ASSIGN(const bool old_prefix, reader.boolean_or("add_prefix_space", true));
  TQ_ASSIGN(const std::string scheme, reader.string_or("prepend_scheme", old_prefix ? "always" : "never"));
  TQ_ASSIGN(step.split, reader.boolean_or("split", true));
  TQ_ASSIGN(const std::string mark, reader.string_or("replacement", step.mark));
  if (mark != step.mark) return bad_input("{}: a Metaspace with the mark '{}' is not supported", reader.where(), mark);
  step.prepend = scheme == "always" ? Metaspace::kAlways : scheme == "first" ? Metaspace::kFirst : Metaspace::kNever;
  impl.pretokenizer.push_back(step);
  return {};
}

Status read_split(const JsonReader& reader, TokenizerImpl& impl) {
  TQ_ASSIGN(const Pattern pattern, read_pattern(reader));
  TQ_ASSIGN(const SplitBehavior behavior, read_behavior(reader, "Isolated"));
  TQ_ASSIGN(const bool invert, reader.boolean_or("invert", false));
  return add_split(impl, pattern.is_regex ? pattern.text : escaped(pattern.text), behavior, invert);
}

constexpr const char* kPunctuation = R"([\p{P}!-/:-@\[-`{-~])";

Status read_pre_tokenizer_step(const JsonReader& reader, TokenizerImpl& impl) {
  TQ_ASSIGN(const std::string type, reader.string("type"));
  if (type == "ByteLevel") return read_byte_level(reader, impl);
  if (type == "Metaspace") return read_metaspace(reader, impl);
  if (type == "Split") return read_split(reader, impl);
  if (type == "Whitespace")
    return add_split(impl, R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}]+|[^\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\s]+)",
                     SplitBehavior::kRemoved, true);
  if (type == "BertPreTokenizer") {
    TQ_TRY(add_split(impl, R"(\s+)", SplitBehavior::kRemoved));
    return add_split(impl, kPunctuation, SplitBehavior::kIsolated);
  }
  if (type == "CharDelimiterSplit") {
    TQ_ASSIGN(const std::string delimiter, reader.string("delimiter"));
    return add_split(impl, escaped(delimiter), SplitBehavior::kRemoved);
  }
  if (type == "WhitespaceSplit") return add_split(impl, R"(\s+)", SplitBehavior::kRemoved);
  if (type == "Digits") {
    TQ_ASSIGN(const bool individual, reader.boolean_or("individual_digits", false));
    return add_split(impl, R"(\p{N})", individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    TQ_ASSIGN(const SplitBehavior behavior, read_behavior(reader, "Isolated"));
    return add_split(impl, kPunctuation, behavior);
  }
  return bad_input("{}: the pre-tokenizer {} is not supported", impl.where, type);
}

Status read_bert_normalizer(const JsonReader& reader, TokenizerImpl& impl) {
  TQ_ASSIGN(const bool cleans, reader.boolean_or("clean_text", true));
  TQ_ASSIGN(const bool spaces_ideographs, reader.boolean_or("handle_chinese_chars", true));
  TQ_ASSIGN(const bool lowercases, reader.boolean_or("lowercase", true));
  TQ_ASSIGN(const bool strips, reader.boolean_or("strip_accents", lowercases));
  if (cleans) impl.normalizer.push_back(CleanText{});
  if (spaces_ideographs) impl.normalizer.push_back(SpaceIdeographs{});
  if (strips) {
    impl.normalizer.push_back(UnicodeForm{UnicodeForm::kNfd});
    impl.normalizer.push_back(StripAccents{false});
  }
  if (lowercases) impl.normalizer.push_back(Lowercase{});
  return {};
}

Status read_normalizer_step(const JsonReader& reader, TokenizerImpl& impl) {
  static const std::map<std::string, UnicodeForm::Kind> kForms = {
      {"NFC", UnicodeForm::kNfc}, {"NFD", UnicodeForm::kNfd}, {"NFKC", UnicodeForm::kNfkc}, {"NFKD", UnicodeForm::kNfkd}};
  TQ_ASSIGN(const std::string type, reader.string("type"));
  if (const auto form = kForms.find(type); form != kForms.end()) {
    impl.normalizer.push_back(UnicodeForm{form->second});
  } else if (type == "Lowercase") {
    impl.normalizer.push_back(Lowercase{});
  } else if (type == "StripAccents") {
    impl.normalizer.push_back(StripAccents{});
  } else if (type == "BertNormalizer") {
    return read_bert_normalizer(reader, impl);
  } else if (type == "Precompiled") {
    TQ_ASSIGN(const std::string text, reader.string_or("precompiled_charsmap", ""));
    if (text.empty()) return {};
    const std::optional<std::string> blob = decode_base64(text);
    if (!blob) return bad_input("{}: precompiled_charsmap is no base64", reader.where());
    TQ_ASSIGN(Charsmap map, Charsmap::parse(*blob, Charsmap::Walk::kHuggingFace, reader.where()));
    impl.normalizer.push_back(std::move(map));
  } else if (type == "Replace") {
    TQ_ASSIGN(const Pattern pattern, read_pattern(reader));
    TQ_ASSIGN(std::string content, reader.string_or("content", ""));
    if (!pattern.is_regex) {
      impl.normalizer.push_back(ReplaceText{pattern.text, std::move(content)});
    } else {
      TQ_ASSIGN(Regex regex, Regex::compile(pattern.text, impl.where));
      impl.normalizer.push_back(ReplaceRegex{std::move(regex), std::move(content)});
    }
  } else if (type == "Prepend") {
    TQ_ASSIGN(std::string text, reader.string("prepend"));
    impl.normalizer.push_back(PrependText{std::move(text)});
  } else if (type == "Strip") {
    TQ_ASSIGN(const bool left, reader.boolean_or("strip_left", true));
    TQ_ASSIGN(const bool right, reader.boolean_or("strip_right", true));
    impl.normalizer.push_back(StripSpace{left, right});
  } else {
    return bad_input("{}: the normalizer {} is not supported", impl.where, type);
  }
  return {};
}

// RobertaProcessing and BertProcessing: ["</s>", 2]
Status read_frame(const JsonReader& reader, TokenizerImpl& impl) {
  for (const auto& [key, list] : {std::pair{"cls", &impl.prefix}, {"sep", &impl.suffix}}) {
    const Json* pair = reader.find(key);
    if (!pair || !pair->is_array() || pair->size() != 2 || !(*pair)[0].is_string())
      return bad_input("{}: '{}' should be a token and its id", reader.where(), key);
    const auto found = impl.ids.find((*pair)[0].get<std::string>());
    if (found == impl.ids.end()) return bad_input("{}: '{}' names an unknown token", reader.where(), key);
    list->push_back(found->second);
  }
  return {};
}

Status read_template(const JsonReader& reader, TokenizerImpl& impl) {
  const Json* single = reader.find("single");
  if (!single || !single->is_array()) return bad_input("{}: TemplateProcessing without 'single'", impl.where);
  bool after_text = false;
  for (const Json& item : *single) {
    if (item.is_object() && item.contains("Sequence")) after_text = true;
    if (!item.is_object() || !item.contains("SpecialToken")) continue;
    const JsonReader special(item["SpecialToken"], impl.where + " post_processor");
    TQ_ASSIGN(const std::string name, special.string("id"));
    const auto found = impl.ids.find(name);
    if (found == impl.ids.end()) return bad_input("{}: post_processor names the unknown token '{}'", impl.where, name);
    (after_text ? impl.suffix : impl.prefix).push_back(found->second);
  }
  return {};
}

}  // namespace

Status read_normalizer(const Json& json, TokenizerImpl& impl) {
  TQ_ASSIGN(const std::vector<const Json*> steps, steps_of(json, "normalizers", impl.where + " normalizer"));
  for (const Json* step : steps) TQ_TRY(read_normalizer_step(JsonReader(*step, impl.where + " normalizer"), impl));
  return {};
}

Status read_pre_tokenizer(const Json& json, TokenizerImpl& impl) {
  TQ_ASSIGN(const std::vector<const Json*> steps, steps_of(json, "pretokenizers", impl.where + " pre_tokenizer"));
  for (const Json* step : steps) TQ_TRY(read_pre_tokenizer_step(JsonReader(*step, impl.where + " pre_tokenizer"), impl));
  return {};
}

Status read_post_processor(const Json& json, TokenizerImpl& impl) {
  TQ_ASSIGN(const std::vector<const Json*> steps, steps_of(json, "processors", impl.where + " post_processor"));
  for (const Json* step : steps) {
    const JsonReader reader(*step, impl.where + " post_processor");
    TQ_ASSIGN(const std::string type, reader.string("type"));
    if (type == "TemplateProcessing") TQ_TRY(read_template(reader, impl));
    else if (type == "RobertaProcessing" || type == "BertProcessing") TQ_TRY(read_frame(reader, impl));
    else if (type != "ByteLevel") return bad_input("{}: the post-processor {} is not supported", impl.where, type);
  }
  return {};
}

namespace {

bool never_prepends(const TokenizerImpl& impl) {
  bool out = false;
  for (const PreStep& step : impl.pretokenizer)
    if (const auto* metaspace = std::get_if<Metaspace>(&step)) out = metaspace->prepend == Metaspace::kNever;
  return out;
}

}  // namespace

// What decoding does follows from the model and the pre-tokenizer, but for the leading space.
Status read_decoder(const Json& json, TokenizerImpl& impl) {
  TQ_ASSIGN(const std::vector<const Json*> steps, steps_of(json, "decoders", impl.where + " decoder"));
  if (steps.empty()) impl.joins_by_spaces = impl.strip_leading_space = true;
  for (const Json* step : steps) {
    const JsonReader reader(*step, impl.where + " decoder");
    TQ_ASSIGN(const std::string type, reader.string("type"));
    if (type == "ByteLevel") impl.byte_level = true;
    if (type == "Replace" || type == "Metaspace") impl.marks_spaces = true;
    if (type == "Metaspace") impl.strip_leading_space = !never_prepends(impl);
    if (type == "WordPiece") {
      TQ_ASSIGN(impl.spaced_unless, reader.string_or("prefix", "##"));
      impl.strip_leading_space = true;
    }
    if (type == "Strip") {
      TQ_ASSIGN(const int64_t start, reader.integer_or("start", 0, 0, 1 << 20));
      impl.strip_leading_space = start > 0;
    }
  }
  return {};
}

}  // namespace tq
