#include "token/pretokenizer.h"

#include <algorithm>
#include <initializer_list>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace tq {
namespace {

using Pieces = std::vector<std::string_view>;

struct Span {
  size_t begin, end;
  bool is_match;
};

// The piece cut into matches and what lies between.
std::vector<Span> spans(const SplitStep& step, std::string_view piece) {
  std::vector<Span> out;
  size_t at = 0;
  for (const auto& [begin, end] : step.regex.find_all(piece)) {
    if (begin > at) out.push_back({at, begin, step.invert});
    out.push_back({begin, end, !step.invert});
    at = end;
  }
  if (at < piece.size()) out.push_back({at, piece.size(), step.invert});
  return out;
}

std::vector<Span> merged_with_previous(const std::vector<Span>& all) {
  std::vector<Span> out;
  bool previous_is_match = false;
  for (const Span& span : all) {
    if (span.is_match && !previous_is_match && !out.empty()) out.back().end = span.end;
    else out.push_back(span);
    previous_is_match = span.is_match;
  }
  return out;
}

std::vector<Span> merged_with_next(const std::vector<Span>& all) {
  std::vector<Span> out;
  bool next_is_match = false;
  for (auto span = all.rbegin(); span != all.rend(); ++span) {
    if (span->is_match && !next_is_match && !out.empty()) out.back().begin = span->begin;
    else out.push_back(*span);
    next_is_match = span->is_match;
  }
  return {out.rbegin(), out.rend()};
}

std::vector<Span> contiguous(const std::vector<Span>& all) {
  std::vector<Span> out;
  for (const Span& span : all) {
    if (!out.empty() && out.back().is_match == span.is_match) out.back().end = span.end;
    else out.push_back(span);
  }
  return out;
}

std::vector<Span> arranged(const SplitStep& step, std::string_view piece) {
  std::vector<Span> all = spans(step, piece);
  switch (step.behavior) {
    case SplitBehavior::kIsolated: return all;
    case SplitBehavior::kRemoved: std::erase_if(all, [](const Span& span) { return span.is_match; }); return all;
    case SplitBehavior::kMergedWithPrevious: return merged_with_previous(all);
    case SplitBehavior::kMergedWithNext: return merged_with_next(all);
    case SplitBehavior::kContiguous: return contiguous(all);
  }
  __builtin_unreachable();
}

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepSeek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

}  // namespace

const char* gpt2_pattern() { return kGpt2; }

// Public descriptions: the tokenizer.json files of the models that each name stands for.
std::vector<std::string> gguf_patterns(std::string_view pre) {
  const auto is = [&](std::initializer_list<std::string_view> names) { return std::find(names.begin(), names.end(), pre) != names.end(); };
  if (is({"gpt-2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe", "mpt", "olmo",
          "jais", "gigachat", "trillion", "granite-docling", "exaone4", "modern-bert"}))
    return {kGpt2};
  if (is({"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "dbrx", "smaug-bpe", "chatglm-bpe",
          "glm4", "gpt-4"}))
    return {kLlama3};
  if (is({"qwen2", "stablelm2", "hunyuan", "megrez", "deepseek-r1-qwen", "solar-open"})) return {kQwen2};
  if (is({"qwen35"})) return {kQwen35};
  if (is({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})) return {R"(\p{N})", kGpt2};
  if (is({"gpt-4o", "llama4"})) return {kGpt4o};
  if (is({"tekken"})) return {kTekken};
  if (is({"deepseek-v3", "hunyuan-dense", "joyai-llm"})) return {R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)", kDeepSeek3};
  if (is({"deepseek-llm"}))
    return {
        R"([\r\n])",
        R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)",
        R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)",
        R"(\s+$)",
        R"([一-龥ࠀ-一가-퟿]+)",
        R"(\p{N}+)"};
  if (is({"deepseek-coder"})) return {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", R"([一-龥ࠀ-一가-퟿]+)", R"(\p{N})"};
  if (is({"falcon"})) return {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, R"([0-9][0-9][0-9])"};
  if (is({"", "default"})) return {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", R"([0-9][0-9][0-9])"};
  if (is({"poro-chat", "bloom", "gpt3-finnish"})) return {R"( ?[^(\s|.,!?…。，、।۔،)]+)"};
  if (is({"viking"})) return {R"( ?[^(\s|.,!?…。，、।۔،)]+)", R"(\p{N})"};
  return {};
}

Result<Regex> Regex::compile(const std::string& pattern, const std::string& where) {
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                       PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &code, &offset, nullptr);
  if (!compiled) {
    PCRE2_UCHAR message[200] = {};
    pcre2_get_error_message(code, message, sizeof message);
    return bad_input("{}: the expression '{}' cannot be used: {}", where, pattern.substr(0, 80), reinterpret_cast<const char*>(message));
  }
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);  // without it matching is slower, nothing else
  Regex regex;
  regex.pattern_ = pattern;
  regex.code_ = std::shared_ptr<void>(compiled, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  return regex;
}

std::vector<Regex::Match> Regex::find_all(std::string_view text) const {
  std::vector<Match> out;
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(pcre2_match_data_create_from_pattern(code, nullptr),
                                                                            pcre2_match_data_free);
  for (size_t at = 0; at < text.size();) {
    const int status = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                                   data.get(), nullptr);
    if (status < 0) break;
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get());
    out.push_back({ends[0], ends[1]});
    at = ends[1];
  }
  return out;
}

std::vector<std::string_view> split(const SplitStep& step, const std::vector<std::string_view>& pieces) {
  Pieces out;
  for (const std::string_view piece : pieces)
    for (const Span& span : arranged(step, piece)) out.push_back(piece.substr(span.begin, span.end - span.begin));
  return out;
}

}  // namespace tq
