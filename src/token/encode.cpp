// Texts to ids: added tokens are cut out, the rest is normalized, cut into words, and each word into tokens.
#include <algorithm>
#include <cstdlib>
#include <limits>

#include "token/tokenizer_impl.h"
#include "token/utf8.h"

namespace tq {
namespace {

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // ▁
constexpr float kNeverScore = std::numeric_limits<float>::lowest();

// Control tokens that end an answer in every vocabulary that has them. Others, like GLM's <|user|>, depend on the chat template.
constexpr const char* kEndOfTurn[] = {"<|im_end|>",
                                      "<|eot_id|>",
                                      "<|eom_id|>",
                                      "<|end|>",
                                      "<end_of_turn>",
                                      "<|endoftext|>",
                                      "<|end_of_text|>",
                                      "<EOT>",
                                      "_<EOT>",
                                      "<|end_of_turn|>",
                                      "<|END_OF_TURN_TOKEN|>",
                                      "<|return|>",
                                      "<|call|>",
                                      "<|eot|>",
                                      "<end_of_utterance>"};

}  // namespace

Status TokenizerImpl::finish() {
  kinds.resize(tokens.size(), TokenKind::kNormal);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!tokens[i].empty()) ids.emplace(tokens[i], static_cast<TokenId>(i));
    longest_token_ = std::max(longest_token_, tokens[i].size());
  }
  byte_tokens_.fill(-1);
  for (size_t byte = 0; byte < 256; ++byte)
    if (const auto found = ids.find(fmt::format("<0x{:02X}>", byte)); found != ids.end()) byte_tokens_[byte] = found->second;
  added.index();
  for (AddedToken token : added.all()) {
    if (!token.normalized) continue;
    token.content = normalize(normalizer, token.content);
    added_normalized_.add(std::move(token));
  }
  added_normalized_.index();
  for (size_t i = 0; i < scores.size(); ++i) {  // control tokens are never found in words
    least_score_ = std::min(least_score_, scores[i]);
    const AddedToken* token = added.by_id(static_cast<TokenId>(i));
    if ((token && token->special) || kinds[i] == TokenKind::kControl || kinds[i] == TokenKind::kUnknown || kinds[i] == TokenKind::kByte)
      scores[i] = kNeverScore;
  }
  const auto add_end = [&](TokenId id) {
    if (id >= 0 && std::find(end_of_turn.begin(), end_of_turn.end(), id) == end_of_turn.end()) end_of_turn.push_back(id);
  };
  add_end(eos);
  const bool is_harmony = ids.contains("<|return|>") && ids.contains("<|channel|>");  // there <|end|> ends a message, not the turn
  for (const char* name : kEndOfTurn) {
    const auto found = ids.find(name);
    if (found == ids.end()) continue;
    const AddedToken* token = added.by_id(found->second);
    if (token && !(is_harmony && std::string_view(name) == "<|end|>")) add_end(found->second);
  }
  return {};
}

std::vector<TokenId> TokenizerImpl::encode(std::string_view raw, AddedSearch search, bool add_special) const {
  Rewriting text(!search.breaks.empty());
  repair(raw, text);
  search.origins = text.origins();
  std::vector<TokenId> out;
  if (add_special) out = prefix;
  size_t at = 0;
  bool is_first = true, after_special = true;
  for (const AddedTokens::Found& found : added.find(text.text, search)) {
    if (found.begin > at) encode_stretch(text, {at, found.begin, is_first, after_special}, search, out);
    out.push_back(found.token->id);
    is_first = false;
    after_special = found.token->special;
    at = found.end;
  }
  if (at < text.text.size()) encode_stretch(text, {at, text.text.size(), is_first, after_special}, search, out);
  if (add_special) out.insert(out.end(), suffix.begin(), suffix.end());
  return out;
}

Rewriting TokenizerImpl::normalize_part(const Rewriting& whole, size_t begin, size_t end, bool is_traced) const {
  const std::string_view part = std::string_view(whole.text).substr(begin, end - begin);
  Rewriting out(is_traced);
  if (is_traced) {
    out = normalize_traced(normalizer, part);
    out.shift(begin);
    out.follow(whole);
  } else {
    out.text = normalize(normalizer, part);
  }
  return out;
}

void TokenizerImpl::encode_stretch(const Rewriting& whole, const Stretch& stretch, AddedSearch search, std::vector<TokenId>& out) const {
  const bool may_break = search.parse_special && !search.breaks.empty() && added_normalized_.finds_special();
  Rewriting text = normalize_part(whole, stretch.begin, stretch.end, may_break);
  if (prefix_after_special && stretch.after_special && !text.text.empty()) text.insert_front(kSpaceMark);
  if (added_normalized_.all().empty()) return encode_normalized(std::move(text.text), stretch.is_first, out);
  search.origins = text.origins();
  size_t at = 0;
  for (const AddedTokens::Found& found : added_normalized_.find(text.text, search)) {
    if (found.begin > at) encode_normalized(text.text.substr(at, found.begin - at), stretch.is_first && at == 0, out);
    out.push_back(found.token->id);
    at = found.end;
  }
  if (at < text.text.size()) encode_normalized(text.text.substr(at), stretch.is_first && at == 0, out);
}

// What is found in the normalized text depends on where the text is cut: it is looked at as a whole, and cut by the tokens that would be
// found were all control tokens ordinary text.
std::vector<size_t> TokenizerImpl::find_special(std::string_view raw, TokenId below) const {
  std::vector<size_t> out = added.find_special(raw);
  if (!added_normalized_.finds_special()) return out;
  Rewriting text(true);
  repair(raw, text);
  const auto look = [&](size_t begin, size_t end) {
    const Rewriting part = normalize_part(text, begin, end, true);
    for (const size_t at : added_normalized_.find_special(part.text))
      if (part.origins()[at].begin < raw.size()) out.push_back(part.origins()[at].begin);
  };
  look(0, text.text.size());
  size_t at = 0;
  for (const AddedTokens::Found& found : added.find(text.text, {.below = below})) {
    look(at, found.begin);
    at = found.end;
  }
  if (at > 0) look(at, text.text.size());
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

void TokenizerImpl::encode_normalized(std::string text, bool is_first, std::vector<TokenId>& out) const {
  for (const std::string& word : pretokenize(pretokenizer, std::move(text), is_first)) encode_word(word, out);
}

void TokenizerImpl::encode_word(const std::string& word, std::vector<TokenId>& out) const {
  switch (algorithm) {
    case Algorithm::kBpe: return encode_bpe(word, out);
    case Algorithm::kUnigram: return encode_unigram(word, out);
    case Algorithm::kWordPiece: return encode_word_piece(word, out);
    case Algorithm::kWordLevel: {
      const auto found = ids.find(word);
      if (found != ids.end()) out.push_back(found->second);
      else append_unknown(word, out);
      return;
    }
  }
}

void TokenizerImpl::append_unknown(std::string_view symbol, std::vector<TokenId>& out) const {
  if (byte_fallback) {
    const bool all = std::all_of(symbol.begin(), symbol.end(), [&](char c) { return byte_tokens_[static_cast<uint8_t>(c)] >= 0; });
    if (all) {
      for (const char c : symbol) out.push_back(byte_tokens_[static_cast<uint8_t>(c)]);
      return;
    }
  }
  if (unknown >= 0) out.push_back(unknown);
}

void TokenizerImpl::encode_bpe(const std::string& word, std::vector<TokenId>& out) const {
  if (ignore_merges) {
    if (const auto whole = ids.find(word); whole != ids.end()) {
      out.push_back(whole->second);
      return;
    }
  }
  std::vector<TokenId> symbols;
  std::vector<std::string_view> strange;  // characters outside the vocabulary: id -1 - index
  for (size_t at = 0; at < word.size();) {
    const size_t length = std::max<size_t>(1, utf8_length(word, at));
    std::string symbol = (at > 0 ? subword_prefix : std::string()) + word.substr(at, length);
    if (at + length == word.size()) symbol += word_suffix;
    const auto found = ids.find(symbol);
    if (found != ids.end()) {
      symbols.push_back(found->second);
    } else {
      strange.push_back(std::string_view(word).substr(at, length));
      symbols.push_back(-static_cast<TokenId>(strange.size()));
    }
    at += length;
  }
  merge_symbols(merges, symbols);
  bool last_is_unknown = false;
  for (const TokenId symbol : symbols) {
    if (symbol >= 0) {
      out.push_back(symbol);
      last_is_unknown = false;
    } else if (!(fuse_unknown && last_is_unknown)) {
      const size_t before = out.size();
      append_unknown(strange[static_cast<size_t>(-symbol - 1)], out);
      last_is_unknown = out.size() > before && out.back() == unknown;
    }
  }
}

// Viterbi over the characters. A character that no token spells costs more than every token.
void TokenizerImpl::encode_unigram(const std::string& word, std::vector<TokenId>& out) const {
  constexpr double kUnknownPenalty = 10;
  struct Best {
    double score = 0;
    size_t begin = 0;
    TokenId id = -1;
    bool reached = false;
  };
  std::vector<Best> best(word.size() + 1);
  best[0].reached = true;
  const auto offer = [&](size_t begin, size_t end, double score, TokenId id) {
    const double total = best[begin].score + score;
    if (!best[end].reached || total > best[end].score) best[end] = {total, begin, id, true};
  };
  for (size_t at = 0; at < word.size();) {
    const size_t character = std::max<size_t>(1, utf8_length(word, at));
    bool has_single = false;
    for (size_t end = at + character; end <= std::min(word.size(), at + longest_token_);) {
      const auto found = ids.find(word.substr(at, end - at));
      const auto id = found == ids.end() ? scores.size() : static_cast<size_t>(found->second);
      if (id < scores.size() && scores[id] > kNeverScore) {
        offer(at, end, static_cast<double>(scores[id]), found->second);
        has_single |= end == at + character;
      }
      end += end < word.size() ? std::max<size_t>(1, utf8_length(word, end)) : 1;
    }
    if (!has_single) offer(at, at + character, static_cast<double>(least_score_) - kUnknownPenalty, -1);
    at += character;
  }
  std::vector<std::pair<size_t, size_t>> pieces;  // from the end
  for (size_t end = word.size(); end > 0; end = best[end].begin) {
    const bool joins = fuse_unknown && best[end].id < 0 && !pieces.empty() && best[pieces.back().second].id < 0;
    if (joins) pieces.back().first = best[end].begin;
    else pieces.emplace_back(best[end].begin, end);
  }
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    const TokenId id = best[piece->second].id;
    if (id >= 0) out.push_back(id);
    else append_unknown(std::string_view(word).substr(piece->first, piece->second - piece->first), out);
  }
}

void TokenizerImpl::encode_word_piece(const std::string& word, std::vector<TokenId>& out) const {
  const auto characters = std::count_if(word.begin(), word.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; });
  const size_t before = out.size();
  bool fits = longest_word <= 0 || characters <= longest_word;
  for (size_t at = 0; fits && at < word.size();) {
    size_t end = std::min(word.size(), at + longest_token_);
    while (end > at && end < word.size() && (static_cast<uint8_t>(word[end]) & 0xc0) == 0x80) --end;
    TokenId id = -1;
    while (end > at && id < 0) {
      const auto found = ids.find((at > 0 ? subword_prefix : std::string()) + word.substr(at, end - at));
      if (found != ids.end()) id = found->second;
      else end = character_before(word, end);
    }
    fits = id >= 0;
    out.push_back(id);
    at = end;
  }
  if (fits) return;
  out.resize(before);
  append_unknown(word, out);
}

std::string TokenizerImpl::bytes_of(TokenId id) const {
  if (id < 0 || static_cast<size_t>(id) >= tokens.size()) return {};
  const std::string& token = tokens[static_cast<size_t>(id)];
  if (joins_by_spaces) return " " + token;
  if (!spaced_unless.empty()) return token.starts_with(spaced_unless) ? token.substr(spaced_unless.size()) : " " + token;
  if (added.by_id(id)) return token;
  if (byte_level) return bytes_of_characters(token);
  if (byte_fallback && token.size() == 6 && token.starts_with("<0x") && token.back() == '>')
    return std::string(1, static_cast<char>(std::strtol(token.substr(3, 2).c_str(), nullptr, 16)));
  std::string out = token;
  if (!word_suffix.empty()) replace_all(out, word_suffix, " ");
  if (marks_spaces) replace_all(out, kSpaceMark, " ");
  return out;
}

}  // namespace tq
