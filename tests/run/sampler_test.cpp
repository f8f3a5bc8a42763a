// The sampler on the largest logits alone: the token that all of them give, or none.
#include "run/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace tq {
namespace {

constexpr int64_t kVocabulary = 3000;

// sharpness: 0 for logits that are alike, above 1 for few likely tokens; steps: they are rounded to 1 / steps, so that many are equal.
std::vector<float> random_logits(uint64_t seed, double sharpness, double steps) {
  Rng rng(seed);
  std::vector<float> logits;
  for (int64_t i = 0; i < kVocabulary; ++i) logits.push_back(static_cast<float>(std::round(rng.gaussian() * sharpness * steps) / steps));
  return logits;
}

std::vector<Ranked> ranks(const std::vector<float>& logits, int64_t count) {
  ThreadPool threads(1);
  const auto backend = make_ref_backend(threads);
  std::vector<RankState> state(1);
  std::vector<Ranked> ranked(static_cast<size_t>(count));
  backend->rank({.values = logits.data(), .width = kVocabulary, .count = count, .states = state, .ranked = ranked.data()});
  EXPECT_EQ(state[0], RankState::kRanked);
  return ranked;
}

struct Tally {
  int chosen = 0, all = 0;
};

// Choices one after another, so that both draw the same random numbers.
Tally compare(const SamplerOptions& options, double sharpness, double steps, int64_t count = 0, uint64_t rounds = 40) {
  Tally tally;
  Sampler whole(options), few(options);
  std::vector<TokenId> seen = {5, 17, 17, 2999};
  for (uint64_t i = 0; i < rounds; ++i) {
    std::vector<float> logits = random_logits(100 + i, sharpness, steps);
    const int64_t wanted = count > 0 ? count : few.wanted_ranks();
    std::optional<TokenId> token;
    if (wanted > 0) token = few.next(ranks(logits, wanted), kVocabulary, seen);
    ++tally.all, tally.chosen += token.has_value();
    std::vector<float> again = logits;
    const TokenId expected = whole.next(logits, seen);
    EXPECT_EQ(token.value_or(expected), expected) << i;
    if (!token) {
      EXPECT_EQ(few.next(again, seen), expected) << "what could not be chosen changed something";
    }
    seen.push_back(expected);
  }
  return tally;
}

TEST(SamplerRanks, GiveTheTokenOfAllLogitsOrNone) {
  for (const double sharpness : {0.5, 3.0})
    for (const double steps : {2.0, 1e6})
      for (const float temperature : {0.0f, 0.3f, 1.0f})
        for (const int64_t top_k : {0, 1, 40, 400, 2999, 3000, 5000})
          for (const float top_p : {0.0f, 0.9f, 1.0f})
            for (const float min_p : {0.0f, 0.05f, 1.0f})
              for (const float penalty : {1.0f, 1.3f, 0.7f}) {
                const SamplerOptions options{
                    .temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p, .repetition_penalty = penalty, .seed = 7};
                compare(options, sharpness, steps, 100, 4);
              }
}

TEST(SamplerRanks, DoForTheUsualSettings) {
  const auto always = [](const SamplerOptions& options, double sharpness = 3.0) {
    const Tally tally = compare(options, sharpness, 1e6);
    return tally.chosen == tally.all;
  };
  EXPECT_TRUE(always({}));
  EXPECT_TRUE(always({.repetition_penalty = 1.2f}));
  EXPECT_TRUE(always({.temperature = 0.0f}));
  EXPECT_TRUE(always({.temperature = 0.0f, .repetition_penalty = 1.1f}));
  EXPECT_TRUE(always({.temperature = 1.5f, .top_k = 100, .top_p = 1.0f, .min_p = 0.0f}));
  EXPECT_TRUE(always({.top_k = 0, .top_p = 1.0f, .min_p = 0.05f}));
  EXPECT_TRUE(always({.temperature = 0.1f, .top_k = 0, .top_p = 1.0f, .min_p = 0.0f})) << "the others are never drawn";
  EXPECT_TRUE(always({.temperature = 0.1f, .top_k = 0, .top_p = 0.9f}));
  // What the sum over all tokens decides is left to all of them.
  EXPECT_EQ(compare({.top_k = 0, .top_p = 0.9f}, 3.0, 1e6).chosen, 0);
  EXPECT_EQ(compare({.top_k = 0, .top_p = 1.0f, .min_p = 0.0f}, 3.0, 1e6).chosen, 0);
}

TEST(SamplerRanks, AllOfThemAreAlwaysEnough) {
  for (const int64_t top_k : {0, 40}) {
    const Tally tally = compare({.temperature = 1.0f, .top_k = top_k, .top_p = 0.9f, .repetition_penalty = 0.8f}, 1.0, 4.0, kVocabulary);
    EXPECT_EQ(tally.chosen, tally.all);
  }
  const Tally tally = compare({.temperature = 1.0f, .top_k = 0, .top_p = 1.0f, .min_p = 0.0f}, 1.0, 4.0, kVocabulary);
  EXPECT_EQ(tally.chosen, tally.all);
}

// Tokens that cannot be drawn, most of them or all.
TEST(SamplerRanks, GiveTheTokenOfAllLogitsWhereMostAreNone) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  for (const int64_t some : {0, 1, 60, 300})
    for (const int64_t top_k : {0, 40})
      for (const float top_p : {0.9f, 1.0f}) {
        const SamplerOptions options{.temperature = 0.8f, .top_k = top_k, .top_p = top_p, .min_p = 0.0f, .seed = 7};
        Sampler whole(options), few(options);
        std::vector<float> logits(kVocabulary, kNone);
        for (int64_t i = 0; i < some; ++i) logits[static_cast<size_t>(7 * i)] = static_cast<float>(i % 13);
        const std::vector<Ranked> largest = ranks(logits, 100);
        for (int draw = 0; draw < 20; ++draw) {
          std::vector<float> again = logits;
          const auto token = few.next(largest, kVocabulary, {});
          const TokenId expected = whole.next(again, {});
          EXPECT_EQ(token ? *token : few.next(logits, {}), expected) << some << " " << top_k << " " << top_p;
          if (some > 0) EXPECT_GE(logits[static_cast<size_t>(expected)], 0.0f);
        }
      }
}

// With all tokens, and with those that a limit leaves.
TEST(Sampler, DrawsAsOftenAsTheSoftmaxSays) {
  const std::vector<double> probability = {0.1, 0.5, 0.05, 0.35};
  for (const int64_t top_k : {0, 2}) {
    Sampler sampler({.temperature = 1.0f, .top_k = top_k, .top_p = 1.0f, .min_p = 0.0f, .seed = 3});
    std::vector<int> drawn(4);
    constexpr int kDraws = 4000;
    for (int i = 0; i < kDraws; ++i) {
      std::vector<float> logits;
      for (const double p : probability) logits.push_back(static_cast<float>(std::log(p)));
      ++drawn[static_cast<size_t>(sampler.next(logits, {}))];
    }
    for (size_t token = 0; token < 4; ++token) {
      const double expected = top_k == 0 ? probability[token] : probability[token] < 0.2 ? 0.0 : probability[token] / 0.85;
      EXPECT_NEAR(static_cast<double>(drawn[token]) / kDraws, expected, 0.03) << token;
    }
  }
}

TEST(Sampler, ATemperatureNextToNothingTakesTheMostLikely) {
  for (const float temperature : {0.0f, 1e-38f, 1e-7f}) {
    Sampler sampler({.temperature = temperature, .top_k = 0, .top_p = 1.0f, .min_p = 0.0f});
    std::vector<float> logits = random_logits(1, 3.0, 1e6);
    const auto likeliest = std::max_element(logits.begin(), logits.end()) - logits.begin();
    EXPECT_EQ(sampler.next(logits, {}), likeliest) << temperature;
  }
}

}  // namespace
}  // namespace tq
