#include "eval/tasks/likelihood.h"

#include <algorithm>

#include "graph/forward.h"

namespace tq {
namespace {

constexpr int64_t kPrefill = 512;  // tokens of a context at a time
constexpr int64_t kChunk = 64;     // positions whose logits exist at a time

}  // namespace

TokenPair encode_pair(const Tokenizer& tokenizer, const std::string& context, const std::string& continuation) {
  const size_t end = context.find_last_not_of(" \t\r\n");
  const size_t cut = end == std::string::npos ? 0 : end + 1;
  const std::string before = context.substr(0, cut), after = context.substr(cut) + continuation;
  TokenPair pair;
  pair.context = tokenizer.encode(before, true, true);
  const std::vector<TokenId> both = tokenizer.encode(before + after, true, true);
  if (before.empty() && pair.context.empty()) {  // something must come before the first token
    pair.context = {tokenizer.bos() >= 0 ? tokenizer.bos() : std::max<TokenId>(0, tokenizer.eos())};
    pair.continuation = both;
    return pair;
  }
  if (both.size() > pair.context.size())
    pair.continuation.assign(both.begin() + static_cast<std::ptrdiff_t>(pair.context.size()), both.end());
  return pair;
}

Result<LikelihoodScorer> LikelihoodScorer::create(Network& network, int64_t longest) {
  const ModelSpec& spec = network.model().spec;
  const int64_t capacity = std::max<int64_t>(2, std::min(longest, spec.context));
  // All that a pair may need, so that none of them ends for want of memory.
  TQ_TRY(network.reserve(
      {.rows = std::min(kPrefill, capacity), .head_rows = std::min(kChunk, capacity), .capacity = capacity, .has_own_logits = false}));
  TQ_ASSIGN(KvCache cache, KvCache::create(network.backend(), spec, KvType::kF16, capacity));
  const auto row = static_cast<uint64_t>(spec.vocabulary) * sizeof(float);
  TQ_ASSIGN(Memory first_logits, network.backend().allocate(row));
  TQ_ASSIGN(Memory logits, network.backend().allocate(kChunk * row));
  return LikelihoodScorer(network, std::move(cache), std::move(first_logits), std::move(logits));
}

// One row of logits for each of the tokens that come next.
void LikelihoodScorer::add(Likelihood& sum, const Memory& logits, std::span<const TokenId> next) {
  TokenScore scores[kChunk];
  network_->backend().score({.logits = logits.as<float>(), .next = next, .score = scores, .vocabulary = network_->model().spec.vocabulary});
  for (size_t i = 0; i < next.size(); ++i) {
    sum.log_likelihood -= scores[i].loss;
    sum.is_greedy &= scores[i].top == next[i];
    ++sum.tokens;
  }
}

void LikelihoodScorer::run_context(std::span<const TokenId> context, int64_t length) {
  const auto size = static_cast<int64_t>(context.size());
  const bool is_long = rotates_as_long(network_->model().spec, length);
  if (is_long != is_long_) cached_.clear();
  is_long_ = is_long;
  const auto limit = std::min(static_cast<int64_t>(cached_.size()), size - 1);  // the last token's state is needed
  int64_t done = 0;
  while (done < limit && cached_[static_cast<size_t>(done)] == context[static_cast<size_t>(done)]) ++done;
  while (done < size) {
    const int64_t count = std::min(kPrefill, size - done);
    const auto tokens = context.subspan(static_cast<size_t>(done), static_cast<size_t>(count));
    const float* hidden = network_->forward({.tokens = tokens, .first_position = done, .sequence_length = length, .cache = &cache_});
    done += count;
    if (done == size) network_->logits(hidden + (count - 1) * network_->model().spec.hidden, 1, first_logits_.as<float>());
  }
  cached_.assign(context.begin(), context.end());
}

Likelihood LikelihoodScorer::score_one(int64_t context, std::span<const TokenId> continuation, int64_t length) {
  const ModelSpec& spec = network_->model().spec;
  Likelihood out;
  if (continuation.empty()) return out;
  add(out, first_logits_, continuation.first(1));
  const auto rest = static_cast<int64_t>(continuation.size()) - 1;
  for (int64_t at = 0; at < rest; at += kPrefill) {
    const int64_t count = std::min(kPrefill, rest - at);
    const auto tokens = continuation.subspan(static_cast<size_t>(at), static_cast<size_t>(count));
    const float* hidden =
        network_->forward({.tokens = tokens, .first_position = context + at, .sequence_length = length, .cache = &cache_});
    for (int64_t i = 0; i < count; i += kChunk) {
      const int64_t here = std::min(kChunk, count - i);
      network_->logits(hidden + i * spec.hidden, here, logits_.as<float>());
      add(out, logits_, continuation.subspan(static_cast<size_t>(at + i + 1), static_cast<size_t>(here)));
    }
  }
  return out;
}

std::vector<Likelihood> LikelihoodScorer::score(std::span<const TokenId> context, std::span<const std::vector<TokenId>> continuations) {
  int64_t longest = 1;
  for (const auto& each : continuations) longest = std::max(longest, static_cast<int64_t>(each.size()));
  // The last token of a continuation is predicted, not read: a pair may have one token more than the cache.
  const int64_t room = std::max<int64_t>(1, cache_.capacity() + 1 - longest);
  if (static_cast<int64_t>(context.size()) > room) context = context.last(static_cast<size_t>(room));
  const auto size = static_cast<int64_t>(context.size());
  run_context(context, size + longest - 1);
  std::vector<Likelihood> out;
  for (const auto& each : continuations) {
    const auto fitting = std::min(each.size(), static_cast<size_t>(cache_.capacity() + 1 - size));
    out.push_back(score_one(size, std::span(each).first(fitting), size + longest - 1));
  }
  return out;
}

}  // namespace tq
