#include "run/sequence.h"

#include <algorithm>
#include <limits>

#include "base/hash.h"

namespace tq {
namespace {

// Where the first stop text begins in `text`, or npos.
size_t find_stop(const std::string& text, const std::vector<std::string>& stops) {
  size_t first = std::string::npos;
  for (const std::string& stop : stops)
    if (!stop.empty()) first = std::min(first, text.find(stop));
  return first;
}

// How many bytes at the end of `text` may be the beginning of a stop text.
size_t held_back(const std::string& text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops)
    for (size_t length = std::min(stop.size(), text.size()); length > longest; --length)
      if (text.compare(text.size() - length, length, stop, 0, length) == 0) longest = length;
  return longest;
}

}  // namespace

Sequence::Sequence(int64_t id, Request request, const Tokenizer* tokenizer)
    : id_(id), request_(std::move(request)), tokenizer_(tokenizer), sampler_(request_.sampler), tokens_(request_.prompt) {
  if (tokenizer) decoder_.emplace(*tokenizer, true, request_.continues_text);
}

bool Sequence::ends_turn(TokenId token) const {
  const auto has = [token](const std::vector<TokenId>& ids) { return std::find(ids.begin(), ids.end(), token) != ids.end(); };
  return !request_.ignore_end_of_turn && ((tokenizer_ && has(tokenizer_->end_of_turn())) || has(request_.end_of_turn));
}

Event Sequence::next(std::span<float> logits, int64_t context, RequestStats& stats) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  stats.logits_hash = hash64(std::as_bytes(std::span<const float>(logits)), stats.logits_hash);
  if (!std::all_of(logits.begin(), logits.end(), [](float logit) { return logit < kInfinity; })) return finish(Finish::kNotFinite);
  if (request_.max_tokens == 0) return finish(Finish::kLength);
  return accept(sampler_.next(logits, tokens_), context, stats);
}

std::optional<Event> Sequence::next(std::span<const Ranked> largest, int64_t vocabulary, int64_t context, RequestStats& stats) {
  const bool is_none = request_.max_tokens == 0;
  const auto token = is_none ? TokenId{0} : sampler_.next(largest, vocabulary, tokens_);
  if (!token) return std::nullopt;
  stats.logits_hash = hash64(std::as_bytes(largest), stats.logits_hash);
  return is_none ? finish(Finish::kLength) : accept(*token, context, stats);
}

Event Sequence::accept(TokenId token, int64_t context, RequestStats& stats) {
  const auto last = [&](Finish reason) {
    Event event = finish(reason);
    event.tokens = {token};
    return event;
  };
  if (ends_turn(token)) return last(Finish::kEndOfTurn);
  tokens_.push_back(token);
  ++answered_;
  ++stats.answer_tokens;
  if (decoder_) held_ += decoder_->push(token);
  if (const size_t stop = find_stop(held_, request_.stop); stop != std::string::npos) {
    held_.resize(stop);
    return last(Finish::kStopText);
  }
  if (request_.max_tokens >= 0 && answered_ >= request_.max_tokens) return last(Finish::kLength);
  if (length() >= context) return last(Finish::kContext);
  Event event{.id = id_, .text = held_.substr(0, held_.size() - held_back(held_, request_.stop)), .tokens = {token}, .finish = {}};
  held_.erase(0, event.text.size());
  return event;
}

Event Sequence::finish(Finish reason) {
  if (decoder_ && reason != Finish::kStopText) held_ += decoder_->finish();
  return {.id = id_, .text = std::move(held_), .tokens = {}, .finish = reason};
}

}  // namespace tq
