// Tokenizers from GGUF vocabularies.
#include <algorithm>
#include <numeric>
#include <unordered_set>

#include "token/tokenizer_impl.h"
#include "token/utf8.h"

namespace tq {
namespace {

Status check(const VocabularySpec& spec, const std::vector<AddedToken>& added, const std::string& where) {
  if (spec.tokens.empty()) return bad_input("{}: the vocabulary is empty", where);
  auto size = static_cast<TokenId>(spec.tokens.size());
  for (const auto& [name, count] : {std::pair{"token types", spec.kinds.size()}, {"scores", spec.scores.size()}})
    if (count != 0 && count != spec.tokens.size()) return bad_input("{}: {} {} for {} tokens", where, count, name, size);
  for (const AddedToken& token : added) size = std::max(size, token.id + 1);
  for (const TokenId id : {spec.bos, spec.eos, spec.unknown, spec.pad})
    if (id >= size) return bad_input("{}: special token {} lies outside the vocabulary of {}", where, id, size);
  for (const auto& [is_added, id] : {std::pair{spec.add_bos, spec.bos}, {spec.add_eos, spec.eos}})
    if (is_added && id >= 0 && static_cast<size_t>(id) < spec.tokens.size() && spec.tokens[static_cast<size_t>(id)].empty())
      return bad_input("{}: token {} should stand at the ends of texts, but has no name", where, id);
  return {};
}

// Gives tokens their places.
void place(TokenizerImpl& impl, const std::vector<AddedToken>& added) {
  for (const AddedToken& token : added) {
    const auto at = static_cast<size_t>(token.id);
    if (at >= impl.tokens.size()) impl.tokens.resize(at + 1), impl.kinds.resize(at + 1, TokenKind::kUnused);
    const bool has_attributes = token.special || token.strip_left || token.strip_right || token.single_word;
    const bool is_found_anyway = impl.kinds[at] == TokenKind::kUserDefined && impl.tokens[at] == token.content && !has_attributes;
    if (is_found_anyway || token.content.empty()) continue;
    impl.tokens[at] = token.content;
    impl.kinds[at] = token.special ? TokenKind::kControl : TokenKind::kUserDefined;
    impl.added.add(token);
  }
}

// in_normalized: user-defined tokens are found in the normalized text, as SentencePiece does it.
void add_special_kinds(TokenizerImpl& impl, bool in_normalized) {
  std::unordered_set<TokenId> placed;
  for (const AddedToken& token : impl.added.all()) placed.insert(token.id);
  for (size_t i = 0; i < impl.tokens.size(); ++i) {
    const TokenKind kind = impl.kinds[i];
    const bool is_special = kind == TokenKind::kControl || kind == TokenKind::kUnknown;
    const auto id = static_cast<TokenId>(i);
    if ((is_special || kind == TokenKind::kUserDefined) && !impl.tokens[i].empty() && !placed.contains(id))
      impl.added.add({.content = impl.tokens[i], .id = id, .special = is_special, .normalized = in_normalized && !is_special});
  }
}

Status add_listed_merges(TokenizerImpl& impl, const std::vector<std::string>& list) {
  for (size_t rank = 0; rank < list.size(); ++rank) {
    const size_t space = list[rank].find(' ', 1);
    if (space == std::string::npos) return bad_input("{}: merge {} ('{}') has no two parts", impl.where, rank, list[rank].substr(0, 40));
    const std::string left = list[rank].substr(0, space), right = list[rank].substr(space + 1);
    const auto a = impl.ids.find(left), b = impl.ids.find(right), ab = impl.ids.find(left + right);
    if (a == impl.ids.end() || b == impl.ids.end() || ab == impl.ids.end()) continue;  // never applies
    impl.merges.emplace(pair_key(a->second, b->second), Merge{static_cast<int32_t>(rank), ab->second});
  }
  impl.merge_list = list;
  return {};
}

// SentencePiece joins the pair whose result scores best. As merges: every split of every token, by falling score of the token.
void add_scored_merges(TokenizerImpl& impl, const std::vector<float>& scores) {
  struct Split {
    float score;
    TokenId left, right, id;
  };
  std::vector<Split> splits;
  const size_t pieces = scores.empty() ? impl.tokens.size() : scores.size();  // what was added behind them is not made by merging
  for (size_t i = 0; i < pieces; ++i) {
    const TokenKind kind = impl.kinds[i];
    if (kind != TokenKind::kNormal && kind != TokenKind::kUserDefined) continue;
    const std::string& token = impl.tokens[i];
    if (token.find(' ') != std::string::npos) continue;  // a text's spaces are ▁; a list of merges could not be written with it
    for (size_t at = 0; at < token.size();) {
      const size_t length = utf8_length(token, at);
      if (length == 0) break;
      at += length;
      if (at >= token.size()) break;
      const auto left = impl.ids.find(token.substr(0, at)), right = impl.ids.find(token.substr(at));
      if (left != impl.ids.end() && right != impl.ids.end())
        splits.push_back({scores.empty() ? 0.0f : scores[i], left->second, right->second, static_cast<TokenId>(i)});
    }
  }
  std::stable_sort(splits.begin(), splits.end(), [](const Split& a, const Split& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.left != b.left ? a.left < b.left : a.right < b.right;
  });
  int32_t rank = -1;
  float last = 0;
  for (const Split& split : splits) {
    if (rank < 0 || split.score != last) ++rank, last = split.score;  // equal scores: the leftmost pair wins
    impl.merges.emplace(pair_key(split.left, split.right), Merge{rank, split.id});
    impl.merge_list.push_back(impl.tokens[static_cast<size_t>(split.left)] + " " + impl.tokens[static_cast<size_t>(split.right)]);
  }
}

Status set_byte_bpe(TokenizerImpl& impl, const VocabularySpec& spec) {
  impl.byte_level = true;
  // These models' own files take a whole piece that is a token as it is.
  for (const char* name : {"llama3", "llama-v3", "llama-bpe", "tekken", "gpt-4o", "llama4", "falcon3", "falcon-h1", "pixtral"})
    impl.ignore_merges |= spec.pre == name;
  const std::vector<std::string> patterns = gguf_patterns(spec.pre);
  if (patterns.empty())
    return bad_input("{}: the pre-tokenizer '{}' is not known; convert the original Hugging Face directory instead", impl.where, spec.pre);
  for (const std::string& pattern : patterns) {
    TQ_ASSIGN(Regex regex, Regex::compile(pattern, impl.where));
    impl.pretokenizer.push_back(SplitStep{std::move(regex), SplitBehavior::kIsolated, false});
  }
  impl.pretokenizer.push_back(ByteLevel{});
  return {};
}

Status set_sentencepiece(TokenizerImpl& impl, const VocabularySpec& spec) {
  impl.byte_fallback = true;
  impl.marks_spaces = true;
  impl.fuse_unknown = spec.fuse_unknown;
  impl.prefix_after_special = spec.add_space_prefix;
  impl.strip_leading_space = spec.add_space_prefix;
  if (!spec.charsmap.empty()) {
    TQ_ASSIGN(Charsmap map, Charsmap::parse(spec.charsmap, Charsmap::Walk::kSentencePiece, impl.where));
    impl.normalizer.push_back(std::move(map));
  }
  if (spec.remove_extra_whitespaces) impl.normalizer.push_back(SingleSpaces{});
  impl.normalizer.push_back(ReplaceText{" ", "\xe2\x96\x81"});
  if (spec.model != VocabularySpec::Model::kUnigram) return {};
  if (spec.scores.empty()) return bad_input("{}: a unigram vocabulary without scores", impl.where);
  impl.algorithm = Algorithm::kUnigram;
  impl.scores = spec.scores;
  return {};
}

}  // namespace

Result<std::shared_ptr<TokenizerImpl>> vocabulary_impl(VocabularySpec spec, const std::vector<AddedToken>& added,
                                                       const std::string& where) {
  TQ_TRY(check(spec, added, where));
  auto impl = std::make_shared<TokenizerImpl>();
  impl->where = where;
  const bool is_byte_level = spec.model == VocabularySpec::Model::kByteBpe;
  if (is_byte_level) TQ_TRY(set_byte_bpe(*impl, spec));
  else TQ_TRY(set_sentencepiece(*impl, spec));
  impl->tokens = std::move(spec.tokens);
  impl->kinds = std::move(spec.kinds);
  impl->kinds.resize(impl->tokens.size(), TokenKind::kNormal);
  place(*impl, added);
  impl->bos = spec.bos, impl->eos = spec.eos, impl->unknown = spec.unknown, impl->pad = spec.pad;
  impl->end_of_turn = std::move(spec.end_of_turn);
  if (spec.add_bos && spec.bos >= 0) impl->prefix = {spec.bos};
  if (spec.add_eos && spec.eos >= 0) impl->suffix = {spec.eos};
  add_special_kinds(*impl, spec.remove_extra_whitespaces || !spec.charsmap.empty());
  TQ_TRY(impl->finish());
  if (is_byte_level) TQ_TRY(add_listed_merges(*impl, spec.merges));
  else if (spec.model == VocabularySpec::Model::kSpm) add_scored_merges(*impl, spec.scores);
  return impl;
}

Result<Tokenizer> Tokenizer::from_vocabulary(VocabularySpec spec, const std::string& where) {
  if (spec.model == VocabularySpec::Model::kWordPiece) {
    TQ_TRY(check(spec, {}, where));
    return word_piece_tokenizer(spec, where);
  }
  TQ_ASSIGN(auto impl, vocabulary_impl(std::move(spec), {}, where));
  return Tokenizer(std::move(impl));
}

}  // namespace tq
