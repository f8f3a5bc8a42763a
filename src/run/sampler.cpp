#include "run/sampler.h"

#include <algorithm>
#include <cmath>

namespace tq {
namespace {

// How far below the most likely one a token is never drawn, in logits divided by the temperature: a million such tokens together would be
// drawn once in 10^11 times.
constexpr float kNegligible = 40.0f;
constexpr float kSharp = 0.4f;  // temperatures up to which the tokens that are left are often few

constexpr auto is_before = [](const auto& a, const auto& b) { return a.logit != b.logit ? a.logit > b.logit : a.token < b.token; };

}  // namespace

float Sampler::penalized(float logit) const {
  return logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
}

void Sampler::find_seen(int64_t vocabulary, std::span<const TokenId> seen) {
  is_seen_.assign(static_cast<size_t>(vocabulary), 0);
  for (const TokenId token : seen) is_seen_[static_cast<size_t>(token)] = 1;
}

void Sampler::penalize(std::span<float> logits, std::span<const TokenId> seen) {
  if (options_.repetition_penalty == 1.0f) return;
  find_seen(static_cast<int64_t>(logits.size()), seen);
  for (size_t i = 0; i < logits.size(); ++i)
    if (is_seen_[i]) logits[i] = penalized(logits[i]);
}

void Sampler::keep_candidates(std::span<const float> logits) {
  candidates_.clear();
  const float least = *std::max_element(logits.begin(), logits.end()) / options_.temperature - kNegligible;
  for (size_t i = 0; i < logits.size(); ++i)
    if (const float logit = logits[i] / options_.temperature; logit >= least) candidates_.push_back({logit, static_cast<TokenId>(i)});
  if (!leaves_out()) return;
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    const auto end = candidates_.begin() + options_.top_k;
    std::partial_sort(candidates_.begin(), end, candidates_.end(), is_before);
    candidates_.erase(end, candidates_.end());
  } else {
    std::sort(candidates_.begin(), candidates_.end(), is_before);
  }
}

// Those that come before all others whatever these are: the logits that are not known are at most the last one that is, a penalty does not
// raise them, and division keeps their order. False where more are needed.
bool Sampler::keep_candidates(std::span<const Ranked> largest, int64_t vocabulary, std::span<const TokenId> seen) {
  const bool is_whole = static_cast<int64_t>(largest.size()) == vocabulary, has_penalty = options_.repetition_penalty != 1.0f;
  if (largest.empty() || (!is_whole && options_.repetition_penalty < 1.0f)) return false;
  const float divisor = is_greedy() ? 1.0f : options_.temperature, bound = largest.back().value / divisor;
  if (has_penalty) find_seen(vocabulary, seen);
  candidates_.clear();
  for (const Ranked& each : largest) {
    const bool is_seen = has_penalty && is_seen_[static_cast<size_t>(each.index)];
    const float logit = (is_seen ? penalized(each.value) : each.value) / divisor;
    if (is_whole || logit > bound) candidates_.push_back({logit, each.index});
  }
  if (candidates_.empty()) return false;
  std::sort(candidates_.begin(), candidates_.end(), is_before);
  if (is_greedy()) return true;
  if (options_.top_k > 0 && std::min(options_.top_k, vocabulary) <= static_cast<int64_t>(candidates_.size())) {
    candidates_.resize(static_cast<size_t>(std::min(options_.top_k, vocabulary)));
    return true;
  }
  const float least = candidates_[0].logit - kNegligible;
  if (is_whole || bound < least) {
    while (candidates_.back().logit < least) candidates_.pop_back();
    if (!leaves_out())
      std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
    return true;
  }
  // All that count are there if the others are too unlikely, and if the sum over all is not asked for.
  constexpr double kBelow = 1 - 1e-9;
  return options_.top_p >= 1.0f && std::exp(static_cast<double>(bound) - candidates_[0].logit) < kBelow * options_.min_p;
}

int64_t Sampler::wanted_ranks() const {
  constexpr int64_t kMore = 8, kMoreSeen = 64;  // equal ones; those that a penalty moves back
  if (options_.repetition_penalty < 1.0f) return 0;
  const int64_t more = options_.repetition_penalty > 1.0f ? kMoreSeen : kMore;
  if (is_greedy()) return 1 + more;
  if (options_.top_k > 0 && options_.top_k + more <= kMostRanked) return options_.top_k + more;
  return (options_.top_p >= 1.0f && options_.min_p > 0) || options_.temperature <= kSharp ? kMostRanked : 0;
}

TokenId Sampler::next(std::span<float> logits, std::span<const TokenId> seen) {
  penalize(logits, seen);
  if (is_greedy()) return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  keep_candidates(logits);
  return draw();
}

std::optional<TokenId> Sampler::next(std::span<const Ranked> largest, int64_t vocabulary, std::span<const TokenId> seen) {
  if (!keep_candidates(largest, vocabulary, seen)) return std::nullopt;
  return is_greedy() ? candidates_[0].token : draw();
}

TokenId Sampler::draw() {
  const double largest = std::max_element(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
                           return a.logit < b.logit;
                         })->logit;
  std::vector<double> weight;
  double total = 0;
  for (const Candidate& candidate : candidates_) {
    weight.push_back(std::exp(static_cast<double>(candidate.logit) - largest));
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
