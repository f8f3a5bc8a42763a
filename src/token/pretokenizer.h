// Splitting text before BPE, by regular expressions.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace tq {

// A compiled expression (PCRE2, Unicode properties). Shared by threads.
class Regex {
 public:
  // Errors: kBadInput with the compiler's message.
  static Result<Regex> compile(const std::string& pattern, const std::string& where);
  struct Match {
    size_t begin, end;
  };
  // All matches from left to right; empty ones are places to cut at. text must be valid UTF-8. When the machine's limits end the search
  // early, the rest of the text counts as unmatched.
  std::vector<Match> find_all(std::string_view text) const;
  const std::string& pattern() const { return pattern_; }

 private:
  Regex() = default;
  std::shared_ptr<void> code_;
  std::string pattern_;
};

// How a split treats what it finds; names of Hugging Face's tokenizers.
enum class SplitBehavior : uint8_t { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStep {
  Regex regex;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
};

// A mark for spaces, "▁".
struct Metaspace {
  enum Prepend : uint8_t { kNever, kFirst, kAlways } prepend = kAlways;
  bool split = true;
  std::string mark = "\xe2\x96\x81";
};

// Bytes become the printable characters that stand for them in GPT-2's vocabulary.
struct ByteLevel {
  bool add_prefix_space = false;
};
struct PrefixSpace {};

using PreStep = std::variant<SplitStep, Metaspace, ByteLevel, PrefixSpace>;

// The words that a text is cut into, none empty. is_first: the text begins the input.
std::vector<std::string> pretokenize(const std::vector<PreStep>& steps, std::string text, bool is_first);

// The expressions of a GGUF pre-tokenizer name, applied one after another, each isolating what it matches. Empty: unknown name.
std::vector<std::string> gguf_patterns(std::string_view pre);
// GPT-2's expression: that of Hugging Face's ByteLevel with use_regex.
const char* gpt2_pattern();

}  // namespace tq
