// How likely a model finds texts that follow other texts.
#pragma once

#include <span>
#include <vector>

#include "graph/network.h"
#include "token/tokenizer.h"

namespace tq {

struct Likelihood {
  double log_likelihood = 0;  // natural logarithm, over the continuation's tokens
  bool is_greedy = true;      // each token is the likeliest
  int64_t tokens = 0;
};

// A context and its continuation as tokens, split where lm-evaluation-harness splits them: spaces at the end of the context belong to the
// continuation, the two are encoded together, and what lies beyond the tokens of the context alone is the continuation.
struct TokenPair {
  std::vector<TokenId> context;  // at least one token
  std::vector<TokenId> continuation;
};
TokenPair encode_pair(const Tokenizer& tokenizer, const std::string& context, const std::string& continuation);

// One context after another; what a context has in common with the one before it is not computed again.
class LikelihoodScorer {
 public:
  // longest: tokens of the longest pair. A pair longer than the model's context loses the beginning of its context.
  // Errors: kNoResource.
  static Result<LikelihoodScorer> create(Network& network, int64_t longest);
  // All continuations after one context: the context is computed once. Continuations without tokens have log-likelihood 0.
  std::vector<Likelihood> score(std::span<const TokenId> context, std::span<const std::vector<TokenId>> continuations);

 private:
  LikelihoodScorer(Network& network, KvCache cache, Memory first_logits, Memory logits)
      : network_(&network), cache_(std::move(cache)), first_logits_(std::move(first_logits)), logits_(std::move(logits)) {}
  void add(Likelihood& sum, const Memory& logits, std::span<const TokenId> next);
  void run_context(std::span<const TokenId> context, int64_t length);
  Likelihood score_one(int64_t context, std::span<const TokenId> continuation, int64_t length);

  Network* network_;
  KvCache cache_;
  std::vector<TokenId> cached_;
  bool is_long_ = false;  // what is cached is rotated as long sequences are
  Memory first_logits_;   // [V], after the context
  Memory logits_;         // [kChunk, V]
};

}  // namespace tq
