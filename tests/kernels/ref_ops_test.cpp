#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "kernels/ref/ops.h"

namespace tq::ref {
namespace {

std::vector<float> gaussian(size_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(rng.gaussian());
  return values;
}

TEST(Matmul, MultipliesByTheTransposeAndAddsTheBias) {
  const std::vector<float> x{1, 2, 3, 4}, w{1, 0, 0, 1, 1, 1}, bias{10, 20, 30};
  std::vector<float> y(6);
  matmul({x.data(), w.data(), bias.data(), y.data(), 2, 3, 2});
  EXPECT_EQ(y, (std::vector<float>{11, 22, 33, 13, 24, 37}));
}

TEST(RmsNorm, GivesUnitMeanSquareAndAppliesTheOffset) {
  const auto x = gaussian(64, 1);
  const std::vector<float> zero(64, 0.0f);
  std::vector<float> y(64);
  rms_norm({x.data(), zero.data(), y.data(), 1, 64, 0.0f, 1.0f});
  double sum = 0;
  for (const float value : y) sum += value * value;
  EXPECT_NEAR(sum / 64, 1.0, 1e-5);
}

TEST(Rope, ScoresDependOnTheDistanceAlone) {
  const std::vector<float> inv_freq{1.0f, 0.1f, 0.01f};
  const auto q = gaussian(8, 2), k = gaussian(8, 3);  // head_dim 8: two dimensions are not rotated
  const auto score = [&](int64_t at_q, int64_t at_k) {
    auto a = q, b = k;
    rope({a.data(), 1, 1, 8, at_q, inv_freq, 1.0f});
    rope({b.data(), 1, 1, 8, at_k, inv_freq, 1.0f});
    double sum = 0;
    for (size_t i = 0; i < 8; ++i) sum += a[i] * b[i];
    return sum;
  };
  EXPECT_NEAR(score(9, 4), score(105, 100), 1e-4);
  EXPECT_GT(std::abs(score(9, 4) - score(9, 8)), 1e-3);
}

struct Case {
  int64_t tokens = 7, heads = 4, kv_heads = 2, head_dim = 6;
  std::vector<float> q = gaussian(7 * 4 * 6, 4), k = gaussian(7 * 2 * 6, 5), v = gaussian(7 * 2 * 6, 6);
  std::vector<float> run(int64_t past, int64_t window, float softcap = 0) const {
    std::vector<float> out(static_cast<size_t>((tokens - past) * heads * head_dim));
    attention({q.data() + past * heads * head_dim, k.data(), v.data(), out.data(), tokens - past, past, heads, kv_heads, head_dim, window,
               0.4f, softcap});
    return out;
  }
};

TEST(Attention, ContinuingFromACacheEqualsOnePass) {
  const Case shape;
  for (const int64_t window : {0, 3}) {
    const auto whole = shape.run(0, window), rest = shape.run(5, window);
    for (size_t i = 0; i < rest.size(); ++i) EXPECT_EQ(rest[i], whole[whole.size() - rest.size() + i]);
  }
}

TEST(Attention, AWindowOfOneReturnsTheTokensOwnValue) {
  const Case shape;
  const auto out = shape.run(0, 1);
  for (int64_t t = 0; t < 7; ++t)
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t d = 0; d < 6; ++d)
        EXPECT_FLOAT_EQ(out[static_cast<size_t>((t * 4 + h) * 6 + d)], shape.v[static_cast<size_t>((t * 2 + h / 2) * 6 + d)]);
}

TEST(Attention, AWindowLongerThanTheSequenceChangesNothing) {
  const Case shape;
  EXPECT_EQ(shape.run(0, 7), shape.run(0, 0));
  EXPECT_NE(shape.run(0, 6), shape.run(0, 0));
}

TEST(Attention, AHugeSoftcapChangesNothing) {
  const Case shape;
  const auto plain = shape.run(0, 0), capped = shape.run(0, 0, 1e6f);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(plain[i], capped[i], 1e-5);
  EXPECT_NE(plain, shape.run(0, 0, 0.5f));
}

// Values of torch.nn.functional.silu, gelu(approximate="tanh") and gelu at 1.
TEST(Activate, MatchesThePublishedDefinitions) {
  EXPECT_NEAR(activate(Gate::kSilu, 1.0f), 0.7310586f, 1e-6);
  EXPECT_NEAR(activate(Gate::kGeluTanh, 1.0f), 0.8411920f, 1e-6);
  EXPECT_NEAR(activate(Gate::kGelu, 1.0f), 0.8413447f, 1e-6);
  EXPECT_EQ(activate(Gate::kSilu, -1000.0f), 0.0f);
}

}  // namespace
}  // namespace tq::ref
