// The inside of a tokenizer: what encode and decode read. Filled by from_vocabulary, from_json or from_sentencepiece.
#pragma once

#include <array>
#include <unordered_map>
#include <variant>

#include "token/added_tokens.h"
#include "token/normalizer.h"
#include "token/pretokenizer.h"
#include "token/tokenizer.h"

namespace tq {

struct Merge {
  int32_t rank;
  TokenId id;
};

// How words become tokens: byte-pair merges; the likeliest pieces (Kudo 2018); the longest pieces from the left (BERT); whole words.
enum class Algorithm : uint8_t { kBpe, kUnigram, kWordPiece, kWordLevel };

class TokenizerImpl {
 public:
  std::string where;
  std::vector<std::string> tokens;
  std::vector<TokenKind> kinds;  // [tokens]
  std::unordered_map<std::string, TokenId> ids;
  std::unordered_map<uint64_t, Merge> merges;  // by (left << 32 | right)
  AddedTokens added;

  Algorithm algorithm = Algorithm::kBpe;
  std::vector<NormalizeStep> normalizer;
  std::vector<PreStep> pretokenizer;
  bool byte_level = false;            // tokens spell bytes by the printable characters of GPT-2
  bool marks_spaces = false;          // tokens spell spaces as ▁
  bool prefix_after_special = false;  // SPM: the space prefix goes to every stretch that begins the text or follows a special token
  bool ignore_merges = false;         // a piece that is a token as a whole is that token
  bool byte_fallback = false;         // characters outside the vocabulary become <0xXX>
  bool fuse_unknown = false;
  std::string subword_prefix;        // of pieces that do not begin a word: "##"
  std::string word_suffix;           // of pieces that end a word: "</w>"
  std::vector<float> scores;         // kUnigram: natural logarithms of probabilities
  int64_t longest_word = 0;          // kWordPiece: characters; longer words are unknown. 0: no limit
  bool joins_by_spaces = false;      // decoded tokens have spaces between them
  std::string spaced_unless;         // as above, but for tokens that begin with this; empty: not so
  bool strip_leading_space = false;  // decode drops the space that encoding put in front

  std::vector<TokenId> prefix, suffix;  // added by add_special
  TokenId bos = -1, eos = -1, unknown = -1, pad = -1;
  std::vector<TokenId> end_of_turn;
  Json source;                          // the tokenizer.json it came from; null otherwise
  std::vector<std::string> merge_list;  // "a b", best first; for export

  // Index of tokens, byte tokens, added tokens, end-of-turn ids. Errors: kBadInput.
  Status finish();
  // The search is told breaks in this text.
  std::vector<TokenId> encode(std::string_view text, AddedSearch search, bool add_special) const;
  // Where special tokens begin, without white space around them, that a text can be read as, alone or as a part of another; normalized ones
  // too. Tokens from `below` on are ordinary text.
  std::vector<size_t> find_special(std::string_view text, TokenId below) const;
  std::string bytes_of(TokenId id) const;

 private:
  struct Stretch {  // of a text, between added tokens
    size_t begin, end;
    bool is_first, after_special;
  };
  void encode_stretch(const Rewriting& whole, const Stretch& stretch, AddedSearch search, std::vector<TokenId>& out) const;
  // The origins are those in what the whole was made from.
  Rewriting normalize_part(const Rewriting& whole, size_t begin, size_t end, bool is_traced) const;
  void encode_normalized(std::string text, bool is_first, std::vector<TokenId>& out) const;
  void encode_word(const std::string& word, std::vector<TokenId>& out) const;
  void encode_bpe(const std::string& word, std::vector<TokenId>& out) const;
  void encode_unigram(const std::string& word, std::vector<TokenId>& out) const;
  void encode_word_piece(const std::string& word, std::vector<TokenId>& out) const;
  void append_unknown(std::string_view symbol, std::vector<TokenId>& out) const;

  AddedTokens added_normalized_{true};  // those that are looked for in the normalized text
  size_t longest_token_ = 0;            // bytes
  float least_score_ = 0;
  std::array<TokenId, 256> byte_tokens_{};
};

// The printable character that stands for a byte in byte-level vocabularies, as UTF-8, and back.
const std::array<std::string, 256>& byte_characters();
std::string bytes_of_characters(std::string_view text);  // characters that stand for no byte are kept

// Joins symbols by the best merge until there is none.
void merge_symbols(const std::unordered_map<uint64_t, Merge>& merges, std::vector<TokenId>& symbols);

uint64_t pair_key(TokenId left, TokenId right);

// All kinds but kWordPiece. The added tokens lie within spec's or behind them; spec's ids may be theirs. Errors: kBadInput.
Result<std::shared_ptr<TokenizerImpl>> vocabulary_impl(VocabularySpec spec, const std::vector<AddedToken>& added, const std::string& where);

Result<Tokenizer> word_piece_tokenizer(const VocabularySpec& spec, const std::string& where);

}  // namespace tq
