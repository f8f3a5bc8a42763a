#include "run/sampler.h"

#include <algorithm>
#include <cmath>

namespace tq {

void Sampler::penalize(std::span<float> logits, std::span<const TokenId> seen) {
  if (options_.repetition_penalty == 1.0f) return;
  is_seen_.assign(logits.size(), 0);
  for (const TokenId token : seen) {
    const auto at = static_cast<size_t>(token);
    if (is_seen_[at]++) continue;
    logits[at] = logits[at] > 0 ? logits[at] / options_.repetition_penalty : logits[at] * options_.repetition_penalty;
  }
}

// Sorted, most likely first; ties by the lower id.
void Sampler::keep_candidates(std::span<const float> logits) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) candidates_.push_back({logits[i] / options_.temperature, static_cast<TokenId>(i)});
  const auto before = [](const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.token < b.token; };
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    const auto end = candidates_.begin() + options_.top_k;
    std::partial_sort(candidates_.begin(), end, candidates_.end(), before);
    candidates_.erase(end, candidates_.end());
  } else {
    std::sort(candidates_.begin(), candidates_.end(), before);
  }
}

TokenId Sampler::next(std::span<float> logits, std::span<const TokenId> seen) {
  penalize(logits, seen);
  if (options_.temperature <= 0) return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  keep_candidates(logits);
  std::vector<double> weight;
  double total = 0;
  for (const Candidate& candidate : candidates_) {
    weight.push_back(std::exp(static_cast<double>(candidate.logit) - candidates_[0].logit));
    total += weight.back();
  }
  size_t kept = weight.size();
  if (options_.top_p < 1.0f) {
    double sum = 0;
    kept = 0;
    while (kept < weight.size() && sum < options_.top_p * total) sum += weight[kept++];
    kept = std::max<size_t>(kept, 1);
  }
  while (kept > 1 && weight[kept - 1] < options_.min_p) --kept;
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) sum += weight[i];
  double left = rng_.uniform() * sum;
  for (size_t i = 0; i < kept; ++i) {
    left -= weight[i];
    if (left < 0) return candidates_[i].token;
  }
  return candidates_[kept - 1].token;
}

}  // namespace tq
