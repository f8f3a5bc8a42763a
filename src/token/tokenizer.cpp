#include "token/tokenizer.h"

#include <algorithm>

#include "token/tokenizer_impl.h"
#include "token/utf8.h"

namespace tq {

namespace {

// For messages: one line, short.
std::string quoted(const std::string& token) {
  std::string out = utf8_front(token);
  std::replace_if(
      out.begin(), out.end(), [](char c) { return (c >= 0 && c < ' ') || c == 0x7f; }, '?');
  return out;
}

}  // namespace

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool parse_special, bool add_special) const {
  return impl_->encode(text, {.parse_special = parse_special, .below = below_}, add_special);
}

std::vector<TokenId> Tokenizer::encode_broken(std::string_view text, std::span<const size_t> breaks) const {
  return impl_->encode(text, {.parse_special = true, .breaks = breaks, .below = below_}, false);
}

Result<Tokenizer> Tokenizer::for_rows(int64_t rows) const {
  for (int64_t id = rows; id < size(); ++id) {
    const auto token = static_cast<TokenId>(id);
    const auto is_in = [token](const std::vector<TokenId>& ids) { return std::find(ids.begin(), ids.end(), token) != ids.end(); };
    const bool is_unused = impl_->kinds[static_cast<size_t>(id)] == TokenKind::kUnused || impl_->tokens[static_cast<size_t>(id)].empty();
    if (is_in(impl_->prefix) || is_in(impl_->suffix) || token == impl_->unknown || (!impl_->added.by_id(token) && !is_unused))
      return bad_input("{}: token {} ('{}') lies outside the model's vocabulary of {}; fetch the tokenizer that belongs to the model",
                       impl_->where, id, quoted(token_text(token)), rows);
  }
  Tokenizer out = *this;
  out.below_ = static_cast<TokenId>(std::min<int64_t>(rows, INT32_MAX));
  return out;
}

std::vector<size_t> Tokenizer::find_special(std::string_view text) const { return impl_->find_special(text, below_); }

std::string Tokenizer::piece(TokenId id, bool skip_special) const {
  const AddedToken* added = impl_->added.by_id(id);
  return skip_special && added && added->special ? std::string() : impl_->bytes_of(id);
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  StreamDecoder decoder(*this, skip_special);
  std::string out;
  for (const TokenId id : ids) out += decoder.push(id);
  return out + decoder.finish();
}

int64_t Tokenizer::size() const { return static_cast<int64_t>(impl_->tokens.size()); }
TokenId Tokenizer::bos() const { return impl_->bos; }
bool Tokenizer::adds_bos() const { return !impl_->prefix.empty() && impl_->prefix[0] == impl_->bos; }
TokenId Tokenizer::eos() const { return impl_->eos; }
const std::vector<TokenId>& Tokenizer::end_of_turn() const { return impl_->end_of_turn; }

std::optional<TokenId> Tokenizer::find(std::string_view token) const {
  const auto found = impl_->ids.find(std::string(token));
  return found == impl_->ids.end() ? std::nullopt : std::optional(found->second);
}

std::string Tokenizer::token_text(TokenId id) const {
  return id >= 0 && id < size() ? impl_->tokens[static_cast<size_t>(id)] : std::string();
}

bool Tokenizer::is_special(TokenId id) const {
  const AddedToken* added = impl_->added.by_id(id);
  return added && added->special;
}

std::string StreamDecoder::push(TokenId id) {
  std::string text = tokenizer_.piece(id, skip_special_);
  if (is_first_ && !text.empty()) {
    is_first_ = false;
    if (tokenizer_.strips_leading_space() && text[0] == ' ') text.erase(0, 1);
  }
  pending_ += text;
  size_t keep = utf8_incomplete_tail(pending_);
  if (tokenizer_.ends_words_with_space() && pending_.ends_with(' ')) keep = 1;  // none at the end of a text
  std::string out = utf8_repair(std::string_view(pending_).substr(0, pending_.size() - keep));
  pending_.erase(0, pending_.size() - keep);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out = utf8_repair(std::exchange(pending_, {}));
  if (tokenizer_.ends_words_with_space() && out.ends_with(' ')) out.pop_back();
  return out;
}

bool Tokenizer::strips_leading_space() const { return impl_->strip_leading_space; }
bool Tokenizer::ends_words_with_space() const { return !impl_->word_suffix.empty(); }

}  // namespace tq
