// SentencePiece's compiled normalization rules (precompiled_charsmap): a double-array trie of byte strings, and what each becomes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "token/rewriting.h"

namespace tq {

class Charsmap {
 public:
  // How a text is walked. SentencePiece: the longest rule that fits at every place. Hugging Face: a whole grapheme cluster below 6 bytes by
  // the shortest rule that fits at its beginning, other clusters character by character.
  enum class Walk : uint8_t { kSentencePiece, kHuggingFace };

  // Errors: kBadInput for sizes that contradict each other.
  static Result<Charsmap> parse(std::string_view blob, Walk walk, const std::string& where);
  void apply(std::string_view text, Rewriting& out) const;  // out is empty

 private:
  struct Rule {
    size_t length;
    std::string_view replacement;
  };
  std::optional<Rule> shortest(std::string_view text) const { return find(text, true); }
  std::optional<Rule> longest(std::string_view text) const { return find(text, false); }
  std::optional<Rule> find(std::string_view text, bool wants_shortest) const;
  void apply_longest(std::string_view text, Rewriting& out) const;
  void apply_to_clusters(std::string_view text, Rewriting& out) const;

  std::vector<uint32_t> units_;
  std::string replacements_;  // ended by zeros
  Walk walk_ = Walk::kSentencePiece;
};

// RFC 4648; nothing for other characters.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace tq
