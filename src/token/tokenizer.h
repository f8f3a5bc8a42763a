// Text to token ids and back: BPE, unigram, WordPiece and whole words, from tokenizer.json, tokenizer.model or a GGUF vocabulary.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace tq {

using TokenId = int32_t;

enum class TokenKind : uint8_t { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

// What a GGUF vocabulary says. Strings as in the file.
struct VocabularySpec {
  enum class Model : uint8_t { kByteBpe, kSpm, kUnigram, kWordPiece };  // kSpm: merges by score
  Model model = Model::kByteBpe;
  std::string pre;  // tokenizer.ggml.pre: the name of the pre-tokenizer
  std::vector<std::string> tokens;
  std::vector<float> scores;        // kSpm, kUnigram
  std::vector<TokenKind> kinds;     // empty: all normal
  std::vector<std::string> merges;  // kByteBpe: "a b", best first
  TokenId bos = -1, eos = -1, unknown = -1, pad = -1;
  std::vector<TokenId> end_of_turn;  // beyond eos
  bool add_bos = false, add_eos = false;
  // kSpm and kUnigram
  bool add_space_prefix = false;
  bool remove_extra_whitespaces = false;
  bool fuse_unknown = false;  // one unknown token for a run of characters
  std::string charsmap;       // SentencePiece's precompiled normalization; empty: none
};

class TokenizerImpl;

// Immutable; copies share their state; safe to use from several threads.
class Tokenizer {
 public:
  // tokenizer_config may be an empty object. Errors: kBadInput with what is missing, wrong or not supported, by name.
  static Result<Tokenizer> from_json(const Json& tokenizer_json, const Json& tokenizer_config, const std::string& where);
  static Result<Tokenizer> from_sentencepiece(std::span<const std::byte> tokenizer_model, const Json& tokenizer_config,
                                              const std::string& where);
  static Result<Tokenizer> from_vocabulary(VocabularySpec spec, const std::string& where);

  // The same for a model with `rows` rows in its embedding: added tokens beyond them are ordinary text. Errors: kBadInput when others lie
  // beyond, so that every id that encode gives is a row.
  Result<Tokenizer> for_rows(int64_t rows) const;

  // parse_special: control tokens written out in the text become themselves; else they are ordinary text (user-defined tokens always
  // match). add_special: bos and eos as the vocabulary asks. Invalid UTF-8 is read as U+FFFD.
  std::vector<TokenId> encode(std::string_view text, bool parse_special, bool add_special) const;
  // As encode(text, true, false), but a control token with one of these byte offsets (ascending) inside is ordinary text.
  std::vector<TokenId> encode_broken(std::string_view text, std::span<const size_t> breaks) const;
  // Where control tokens are written out in a text: byte offsets of their beginnings, without white space around them.
  std::vector<size_t> find_special(std::string_view text) const;
  // Always UTF-8: bytes that are no character become U+FFFD. Ids outside the vocabulary give nothing.
  std::string decode(std::span<const TokenId> ids, bool skip_special) const;

  int64_t size() const;
  TokenId bos() const;    // -1: none
  bool adds_bos() const;  // add_special puts bos in front
  TokenId eos() const;
  // Every id that ends an answer by the vocabulary alone: eos, what its file names, and well-known end-of-turn tokens.
  const std::vector<TokenId>& end_of_turn() const;
  std::optional<TokenId> find(std::string_view token) const;  // as the vocabulary spells it
  std::string token_text(TokenId id) const;                   // as the vocabulary spells it
  bool is_special(TokenId id) const;

  // In the format of Hugging Face's tokenizers, with the same behaviour.
  Json to_tokenizer_json() const;
  Json to_tokenizer_config() const;

  // The bytes that an id stands for, without the treatment of the text's beginning.
  std::string piece(TokenId id, bool skip_special) const;
  bool ends_words_with_space() const;  // decoding drops the space behind the last word
  bool strips_leading_space() const;   // decoding drops the space that encoding puts in front of a text

 private:
  explicit Tokenizer(std::shared_ptr<const TokenizerImpl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const TokenizerImpl> impl_;
  TokenId below_ = INT32_MAX;
};

// Decodes token by token; emits whole UTF-8 characters only. All pieces together are decode() of all tokens, with the space at their front
// where they continue a text.
class StreamDecoder {
 public:
  // continues: text stands before the first token, so that a space at its front is one.
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special, bool continues = false)
      : tokenizer_(tokenizer), skip_special_(skip_special), is_first_(!continues) {}
  std::string push(TokenId id);
  std::string finish();  // U+FFFD for a character that was not finished

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  bool is_first_;
  std::string pending_;
};

}  // namespace tq
