#include "token/pretokenizer.h"

#include <algorithm>
#include <optional>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "token/normalizer.h"
#include "token/tokenizer_impl.h"

namespace tq {
namespace {

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

// Names of general categories that make up everything, by their first letter.
constexpr const char* kCategories[] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
                                       "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};

// [\p{X}\p{Y}&&[^\p{Z}]], which PCRE2 lacks, as the characters of none of the other categories and not in Z. Nothing for other forms.
std::optional<std::string> intersection(std::string_view kept, std::string_view excluded) {
  std::vector<std::string> wanted;
  for (size_t at = 0; at < kept.size();) {
    const size_t end = kept.find('}', at);
    if (kept.compare(at, 3, "\\p{") != 0 || end == std::string_view::npos) return std::nullopt;
    wanted.emplace_back(kept.substr(at + 3, end - at - 3));
    at = end + 1;
  }
  std::string out = "[^" + std::string(excluded);
  for (const std::string_view category : kCategories) {
    const bool is_wanted = std::any_of(wanted.begin(), wanted.end(), [&](const std::string& name) { return category.starts_with(name); });
    if (!is_wanted) (out += "\\p{").append(category) += '}';
  }
  return out + "]";
}

constexpr const char* kWord = R"(\p{L}\p{M}\p{Nd}\p{Pc})";

// [^(\s|[.,])], a class within a class, as PCRE2 writes it: without the inner brackets. Nothing when an inner class is negated.
std::optional<std::string> without_nested_classes(std::string_view pattern) {
  std::string out;
  int depth = 0;
  for (size_t at = 0; at < pattern.size(); ++at) {
    const char c = pattern[at];
    if (c == '\\' && at + 1 < pattern.size()) {
      const char next = pattern[++at];
      if (next == 'w') out += depth > 0 ? kWord : "[" + std::string(kWord) + "]";  // PCRE2's leaves out marks
      else (out += c) += next;
      continue;
    }
    if (depth > 0 && pattern.compare(at, 2, "[:") == 0 && pattern.find(":]", at) != std::string_view::npos) {
      const size_t end = pattern.find(":]", at) + 2;
      out.append(pattern, at, end - at);
      at = end - 1;
      continue;
    }
    const bool opens = c == '[', closes = c == ']' && depth > 0;
    if (opens && depth > 0 && pattern.compare(at, 2, "[^") == 0) return std::nullopt;
    if (opens) ++depth;
    if ((!opens && !closes) || depth == 1) out += c;
    if (closes) --depth;
    if (opens && depth == 1) {  // a bracket that closes nothing yet is itself
      if (pattern.compare(at + 1, 1, "^") == 0) out += pattern[++at];
      if (pattern.compare(at + 1, 1, "]") == 0) out += "\\]", ++at;
    }
  }
  return out;
}

// Ruby's syntax of classes, which Hugging Face's tokenizers use, in PCRE2's. Errors: kBadInput for what has no counterpart.
Result<std::string> translated_classes(std::string pattern, const std::string& where) {
  for (size_t at = pattern.find("&&["); at != std::string::npos; at = pattern.find("&&[", at)) {
    const size_t begin = pattern.rfind('[', at), end = pattern.find("]]", at);
    const bool has_form = begin != std::string::npos && end != std::string::npos && pattern.compare(at, 4, "&&[^") == 0;
    const auto rewritten = has_form ? intersection(std::string_view(pattern).substr(begin + 1, at - begin - 1),
                                                   std::string_view(pattern).substr(at + 4, end - at - 4))
                                    : std::nullopt;
    if (!rewritten) return bad_input("{}: the expression '{}' cannot be used: it intersects classes", where, pattern.substr(0, 80));
    pattern.replace(begin, end + 2 - begin, *rewritten);
    at = begin + rewritten->size();
  }
  std::optional<std::string> flat = without_nested_classes(pattern);
  if (!flat) return bad_input("{}: the expression '{}' cannot be used: a class within a class", where, pattern.substr(0, 80));
  return std::move(*flat);
}

}  // namespace

Result<Regex> Regex::compile(const std::string& pattern, const std::string& where) {
  int code = 0;
  PCRE2_SIZE offset = 0;
  TQ_ASSIGN(const std::string translated, translated_classes(pattern, where));
  // Ruby's syntax, which Hugging Face's tokenizers use: ^ and $ are about lines.
  pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                       PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &offset, nullptr);
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
  uint32_t options = PCRE2_NO_UTF_CHECK;
  for (size_t at = 0; at < text.size();) {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int status = pcre2_match(code, subject, text.size(), at, options, data.get(), nullptr);
    if (status == PCRE2_ERROR_JIT_STACKLIMIT)
      status = pcre2_match(code, subject, text.size(), at, options | PCRE2_NO_JIT, data.get(), nullptr);
    if (status < 0) break;
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get());
    if (ends[0] >= text.size()) break;  // an empty match at the end
    out.push_back({ends[0], ends[1]});
    at = ends[1];
    options = PCRE2_NO_UTF_CHECK | (ends[0] == ends[1] ? PCRE2_NOTEMPTY_ATSTART : 0);
  }
  return out;
}

namespace {

struct Apply {
  std::vector<std::string>& out;

  void operator()(const SplitStep& step, const std::string& piece, bool) const {
    for (const Span& span : arranged(step, piece))
      if (span.end > span.begin) out.push_back(piece.substr(span.begin, span.end - span.begin));
  }
  void operator()(const Metaspace& step, std::string piece, bool is_first) const {
    replace_all(piece, " ", step.mark);
    const bool prepends = step.prepend == Metaspace::kAlways || (step.prepend == Metaspace::kFirst && is_first);
    if (prepends && !piece.starts_with(step.mark)) piece = step.mark + piece;
    size_t begin = 0;  // a new word begins at every mark
    for (size_t next = step.split ? piece.find(step.mark, 1) : std::string::npos; next != std::string::npos;
         next = piece.find(step.mark, begin + 1)) {
      out.push_back(piece.substr(begin, next - begin));
      begin = next;
    }
    out.push_back(piece.substr(begin));
  }
  void operator()(const ByteLevel& step, const std::string& piece, bool) const {
    std::string& spelled = out.emplace_back();
    if (step.add_prefix_space && !piece.starts_with(' ')) spelled += byte_characters()[' '];
    for (const char c : piece) spelled += byte_characters()[static_cast<uint8_t>(c)];
  }
  void operator()(const PrefixSpace&, const std::string& piece, bool) const { out.push_back(piece.starts_with(' ') ? piece : " " + piece); }
};

}  // namespace

std::vector<std::string> pretokenize(const std::vector<PreStep>& steps, std::string text, bool is_first) {
  std::vector<std::string> pieces = {std::move(text)};
  for (const PreStep& step : steps) {
    std::vector<std::string> next;
    bool is_first_piece = is_first;
    for (const std::string& piece : pieces) {
      if (!piece.empty()) std::visit([&](const auto& one) { Apply{next}(one, piece, is_first_piece); }, step);
      is_first_piece = false;
    }
    pieces = std::move(next);
  }
  std::erase(pieces, "");
  return pieces;
}

}  // namespace tq
