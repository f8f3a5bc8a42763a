// Tokens that are found in a text before anything else, and the search for them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "token/rewriting.h"
#include "token/tokenizer.h"

namespace tq {

struct AddedToken {
  std::string content;
  TokenId id = -1;
  bool special = false;     // matched only when special tokens are parsed; dropped by skip_special
  bool strip_left = false;  // takes the white space on that side with it
  bool strip_right = false;
  bool single_word = false;  // not within a word
  bool normalized = false;   // found in the normalized text, by its normalized content
};

// How a text is searched.
struct AddedSearch {
  bool parse_special = false;
  std::span<const size_t> breaks = {};   // byte offsets, ascending: a special token with one inside is ordinary text
  std::span<const Origin> origins = {};  // of the text's bytes in the one that breaks are offsets of; empty: it is the same
  TokenId below = INT32_MAX;             // tokens from here on are ordinary text
};

class AddedTokens {
 public:
  struct Found {
    size_t begin, end;  // with the white space it takes
    const AddedToken* token;
  };
  // finds_normalized: whether it finds the normalized tokens, or the others.
  explicit AddedTokens(bool finds_normalized = false) : finds_normalized_(finds_normalized) {}
  AddedTokens(const AddedTokens&) = delete;  // the index points into the list
  AddedTokens& operator=(const AddedTokens&) = delete;

  void add(AddedToken token) { tokens_.push_back(std::move(token)); }
  void index();  // after the last add
  const std::vector<AddedToken>& all() const { return tokens_; }
  const AddedToken* by_id(TokenId id) const;  // null: not an added one
  bool finds_special() const { return !cores_.sorted.empty(); }

  // From left to right, at every place the longest that fits; linear in the text.
  std::vector<Found> find(std::string_view text, const AddedSearch& search) const;
  // Where what special tokens are without the white space around them begins, those within others too: that space may come from elsewhere
  // when the text becomes a part of another.
  std::vector<size_t> find_special(std::string_view text) const;

 private:
  struct Entry {
    std::string_view text;
    const AddedToken* token;
  };
  struct Index {
    std::vector<Entry> sorted;                                  // by text
    std::array<std::pair<uint32_t, uint32_t>, 256> by_first{};  // ranges of sorted
    void sort();
    // Those whose text begins at `at`, shortest first, one of each length.
    void prefixes(std::string_view text, size_t at, std::vector<const Entry*>& out) const;
  };

  bool finds_normalized_;
  std::vector<AddedToken> tokens_;
  Index contents_, cores_;  // of those that are found; cores of the special ones
  std::unordered_map<TokenId, size_t> by_id_;
};

// White space and word characters as regular expressions mean them. text must be valid UTF-8 and `at` the beginning of a character.
bool is_space_at(std::string_view text, size_t at);
bool is_word_at(std::string_view text, size_t at);
size_t character_before(std::string_view text, size_t at);

}  // namespace tq
