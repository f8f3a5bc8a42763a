// The inside of a tokenizer: what encode and decode read. Filled by from_vocabulary, from_json or from_sentencepiece.
#pragma once

#include <array>
#include <unordered_map>
#include <variant>

#include "token/added_tokens.h"
#include "token/pretokenizer.h"
#include "token/tokenizer.h"

namespace tq {

// Steps of a normalizer.
struct UnicodeForm {
  enum Kind : uint8_t { kNfc, kNfd, kNfkc, kNfkd, kLowercase } kind;
};
struct ReplaceText {
  std::string from, to;
};
struct ReplaceRegex {
  Regex from;
  std::string to;
};
struct PrependText {
  std::string text;
};
struct StripSpace {
  bool left, right;
};
using NormalizeStep = std::variant<UnicodeForm, ReplaceText, ReplaceRegex, PrependText, StripSpace>;

// "▁" for spaces, as a pre-tokenizer.
struct Metaspace {
  enum Prepend : uint8_t { kNever, kFirst, kAlways } prepend = kAlways;
  bool split = true;
};

struct Merge {
  int32_t rank;
  TokenId id;
};

class TokenizerImpl {
 public:
  std::string where;
  std::vector<std::string> tokens;
  std::vector<TokenKind> kinds;  // [tokens]
  std::unordered_map<std::string, TokenId> ids;
  std::unordered_map<uint64_t, Merge> merges;  // by (left << 32 | right)
  AddedTokens added;

  std::vector<NormalizeStep> normalize;
  std::vector<SplitStep> splits;
  bool byte_level = false;        // symbols are bytes, spelled as the printable characters of GPT-2
  bool add_prefix_space = false;  // byte level: before a text that begins without white space
  std::optional<Metaspace> metaspace;
  bool prefix_after_special = false;  // SPM: the space prefix goes to every stretch that begins the text or follows a special token
  bool ignore_merges = false;         // a piece that is a token as a whole is that token
  bool byte_fallback = false;         // characters outside the vocabulary become <0xXX>
  bool fuse_unknown = false;
  bool strip_leading_space = false;  // decode drops the space that encoding put in front

  std::vector<TokenId> prefix, suffix;  // added by add_special
  TokenId bos = -1, eos = -1, unknown = -1, pad = -1;
  std::vector<TokenId> end_of_turn;
  Json source;                          // the tokenizer.json it came from; null otherwise
  std::vector<std::string> merge_list;  // "a b", best first; for export

  // Index of tokens, byte tokens, added tokens, end-of-turn ids. Errors: kBadInput.
  Status finish();
  std::vector<TokenId> encode(std::string_view text, const AddedSearch& search, bool add_special) const;
  std::string bytes_of(TokenId id) const;

 private:
  void encode_stretch(std::string_view text, bool is_first, bool after_special, std::vector<TokenId>& out) const;
  void encode_piece(std::string_view piece, std::vector<TokenId>& out) const;
  std::string normalized(std::string_view text, bool wants_prefix) const;
  void append_unknown(std::string_view symbol, std::vector<TokenId>& out) const;

  std::array<TokenId, 256> byte_tokens_{};
};

// The printable character that stands for a byte in byte-level vocabularies, as UTF-8, and back.
const std::array<std::string, 256>& byte_characters();
std::string bytes_of_characters(std::string_view text);  // characters that stand for no byte are kept

// Joins symbols by the best merge until there is none.
void merge_symbols(const std::unordered_map<uint64_t, Merge>& merges, std::vector<TokenId>& symbols);

uint64_t pair_key(TokenId left, TokenId right);

}  // namespace tq
