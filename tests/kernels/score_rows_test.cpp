#include "kernels/score_rows.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace tq {
namespace {

class ScoreRows : public testing::Test {
 protected:
  std::vector<TokenScore> score(const std::vector<float>& logits, const float* reference, const std::vector<int32_t>& next) {
    std::vector<TokenScore> scores(next.size());
    score_rows({.logits = logits.data(),
                .reference = reference,
                .next = next,
                .score = scores.data(),
                .vocabulary = static_cast<int64_t>(logits.size() / next.size())},
               threads_);
    return scores;
  }
  ThreadPool threads_{2};
};

// softmax = (1/2, 1/4, 1/4) against a reference of (1/4, 1/2, 1/4), whose logits are shifted by 100.
TEST_F(ScoreRows, AreLossesAndDivergenceOfDistributions) {
  const float two = std::log(2.0f);
  const std::vector<float> reference = {100, 100 + two, 100};
  const auto scores = score({two, 0, 0}, reference.data(), {2});
  EXPECT_NEAR(scores[0].loss, std::log(4.0), 1e-6);
  EXPECT_NEAR(scores[0].reference_loss, std::log(4.0), 1e-5);
  EXPECT_NEAR(scores[0].divergence, 0.25 * std::log(0.5) + 0.5 * std::log(2.0), 1e-5);
  EXPECT_EQ(scores[0].top, 0);
  EXPECT_EQ(scores[0].reference_top, 1);
}

TEST_F(ScoreRows, TakeTheFirstOfEqualsAsTheTopOfEachRow) {
  const auto scores = score({1, 3, 3, 5, 5, 0}, nullptr, {0, 2});
  EXPECT_EQ(scores[0].top, 1);
  EXPECT_EQ(scores[1].top, 0);
  EXPECT_NEAR(scores[0].loss, std::log(std::exp(-2.0) + 2) + 2, 1e-6);
  EXPECT_EQ(scores[0].divergence, 0);
}

}  // namespace
}  // namespace tq
