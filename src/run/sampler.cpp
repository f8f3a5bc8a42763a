#include "run/sampler.h"

#include <algorithm>
#include <cmath>

namespace tq {
namespace {

// Weights are whole numbers, so that their sum does not depend on the order: of the most likely token this one. Sums of 2^19 fit.
constexpr float kUnit = 17592186044416.0f;  // 2^44
// How far below the most likely one a token weighs nothing, in logits divided by the temperature: e^-32 is less than half of 2^-44.
constexpr float kNegligible = 32.0f;
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
  const float least = *std::max_element(logits.begin(), logits.end()) / options_.temperature - kNegligible;
  candidates_.resize(logits.size());
  size_t count = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float logit = logits[i] / options_.temperature;
    candidates_[count] = {logit, static_cast<TokenId>(i)};
    count += logit >= least;
  }
  candidates_.resize(count);
  if (options_.top_k <= 0 || static_cast<size_t>(options_.top_k) >= candidates_.size()) return;
  const auto end = candidates_.begin() + options_.top_k;
  std::partial_sort(candidates_.begin(), end, candidates_.end(), is_before);
  candidates_.erase(end, candidates_.end());
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
  return options_.top_p >= 1.0f &&
         static_cast<double>(weight({bound, 0}, candidates_[0].logit)) < options_.min_p * static_cast<double>(kUnit);
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

uint64_t Sampler::weight(const Candidate& candidate, float largest) {
  return static_cast<uint64_t>(candidate.logit == largest ? kUnit : std::exp(candidate.logit - largest) * kUnit + 0.5f);
}

TokenId Sampler::draw() {
  const auto is_less = [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; };
  const float largest = std::max_element(candidates_.begin(), candidates_.end(), is_less)->logit;
  if (leaves_out()) keep_likeliest(largest);
  weights_.clear();
  uint64_t sum = 0;
  for (const Candidate& candidate : candidates_) weights_.push_back(weight(candidate, largest)), sum += weights_.back();
  uint64_t left = std::min(static_cast<uint64_t>(rng_.uniform() * static_cast<double>(sum)), sum - 1);
  size_t drawn = 0;
  while (left >= weights_[drawn]) left -= weights_[drawn++];
  return candidates_[drawn].token;
}

// Those that top_p and min_p leave, most likely first.
void Sampler::keep_likeliest(float largest) {
  double wanted = INFINITY;
  if (options_.top_p < 1.0f) {
    uint64_t total = 0;
    for (const Candidate& candidate : candidates_) total += weight(candidate, largest);
    wanted = options_.top_p * static_cast<double>(total);
  }
  const double least = options_.min_p * static_cast<double>(kUnit);
  uint64_t sum = 0;
  size_t kept = 0;
  constexpr size_t kFirst = 64, kMore = 8;  // they are few mostly: so many are put in order, then so many times as many
  for (size_t sorted = 0, goal = std::min(kFirst, candidates_.size());; sorted = goal, goal = std::min(kMore * goal, candidates_.size())) {
    const auto begin = candidates_.begin();
    std::partial_sort(begin + static_cast<ptrdiff_t>(sorted), begin + static_cast<ptrdiff_t>(goal), candidates_.end(), is_before);
    for (; kept < goal && static_cast<double>(sum) < wanted; ++kept) {
      const uint64_t own = weight(candidates_[kept], largest);
      if (static_cast<double>(own) < least) break;
      sum += own;
    }
    if (kept < goal || goal == candidates_.size()) break;
  }
  candidates_.resize(std::max<size_t>(kept, 1));
}

}  // namespace tq
