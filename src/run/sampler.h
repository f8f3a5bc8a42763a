// Chooses the next token from logits.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/rng.h"
#include "kernels/backend.h"
#include "token/tokenizer.h"

namespace tq {

// The order is that of Hugging Face's generate: repetition penalty, temperature, top-k, top-p, min-p. The defaults are those of llama.cpp.
struct SamplerOptions {
  float temperature = 0.8f;         // 0: the most likely token
  int64_t top_k = 40;               // 0: all
  float top_p = 0.95f;              // the fewest tokens whose probabilities reach it
  float min_p = 0.05f;              // relative to the most likely token's probability
  float repetition_penalty = 1.0f;  // above 1: logits of tokens seen before shrink (Keskar et al. 2019)
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options) : options_(options), rng_(options.seed) {}
  // logits [vocabulary] are changed. seen: the tokens of prompt and answer so far.
  TokenId next(std::span<float> logits, std::span<const TokenId> seen);
  // The same token, from the largest of `vocabulary` logits alone; none, with nothing changed, where the others might count. All logits are
  // finite or -infinity.
  std::optional<TokenId> next(std::span<const Ranked> largest, int64_t vocabulary, std::span<const TokenId> seen);
  // How many of the largest logits are likely to do; 0: all are needed.
  int64_t wanted_ranks() const;

 private:
  struct Candidate {
    float logit;
    TokenId token;
  };
  // At temperatures below a millionth too, where a quotient might be too large for a float.
  bool is_greedy() const { return options_.temperature < 1e-6f; }
  // Whether some tokens are left out; else they are drawn in the order of their ids, which needs no sorting.
  bool leaves_out() const { return options_.top_k > 0 || options_.top_p < 1.0f || options_.min_p > 0.0f; }
  float penalized(float logit) const;
  void find_seen(int64_t vocabulary, std::span<const TokenId> seen);
  void penalize(std::span<float> logits, std::span<const TokenId> seen);
  void keep_candidates(std::span<const float> logits);
  bool keep_candidates(std::span<const Ranked> largest, int64_t vocabulary, std::span<const TokenId> seen);
  TokenId draw();
  static uint64_t weight(const Candidate& candidate, float largest);
  void keep_likeliest(float largest);
  SamplerOptions options_;
  Rng rng_;
  std::vector<Candidate> candidates_;  // where none is left out, by id
  std::vector<uint64_t> weights_;
  std::vector<uint8_t> is_seen_;
};

}  // namespace tq
