#include "quantize/gradients.h"

#include <gtest/gtest.h>

#include "convert/family_fixture.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/matrices.h"
#include "quantize/float_backend.h"
#include "quantize/gradient_steps.h"
#include "quantize/statistics.h"

namespace tq {
namespace {

using namespace families_test;

struct TinyModel {
  explicit TinyModel(const std::string& name) : fixture(load_fixture(name)) {
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    model = read(load_model(directory / "model"));
    for (int i = 0; i < 4; ++i) sequences.emplace_back(fixture.tokens.begin() + 5 * i, fixture.tokens.begin() + 5 * i + 24);
  }
  Fixture fixture;
  TemporaryDirectory directory;
  Model model;
  std::vector<std::vector<TokenId>> sequences;
};

Gradients measure(const TinyModel& tiny, int threads, size_t first, size_t count, uint64_t seed = 1) {
  ThreadPool pool(threads);
  Listener listener;
  const auto backend = make_cpu_backend(pool, best_isa());
  const auto sequences = std::span<const std::vector<TokenId>>(tiny.sequences).subspan(first, count);
  auto result = measure_gradients(tiny.model, *backend, {.threads = pool, .listener = listener},
                                  {.sequences = sequences, .first_sequence = static_cast<int64_t>(first), .seed = seed});
  EXPECT_TRUE(result.has_value()) << (result ? "" : result.error().message);
  return result ? std::move(*result) : Gradients{};
}

TEST(Gradients, AreTheSameInAnyWavesAndOnAnyNumberOfThreads) {
  for (const char* name : {"llama3", "qwen3_moe", "gemma3"}) {
    const TinyModel tiny(name);
    const Gradients whole = measure(tiny, 2, 0, 4);
    Gradients parts = measure(tiny, 1, 0, 3);
    append(parts, measure(tiny, 3, 3, 1));
    ASSERT_EQ(whole.size(), parts.size());
    for (const auto& [linear, own] : whole) {
      EXPECT_EQ(own.token, parts.at(linear).token) << linear;
      for (size_t r = 0; r < own.row.size(); ++r) EXPECT_NEAR(own.row[r], parts.at(linear).row[r], 1e-5 * own.row[r]) << linear;
    }
  }
}

TEST(Gradients, AStepOfAnUnfinishedRunWithTooFewTokensIsRefused) {
  const TinyModel tiny("llama3");
  ThreadPool pool(2);
  Listener listener;
  const Context context{.threads = pool, .listener = listener};
  const auto backend = make_cpu_backend(pool, best_isa());
  JobFolder folder = *JobFolder::open(tiny.model, *make_plan(tiny.model, {}), tiny.directory / "out", false, "test");
  const std::span<const std::vector<TokenId>> all = tiny.sequences;
  ASSERT_TRUE(gradient_steps(tiny.model, *backend, context, folder, {.sequences = all.first(2)}));
  ASSERT_TRUE(gradient_steps(tiny.model, *backend, context, folder, {.sequences = all.first(2)})) << "taken over";
  const auto refused = gradient_steps(tiny.model, *backend, context, folder, {.sequences = all});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kBadInput);
}

TEST(Gradients, FollowTheSeedOfTheDraws) {
  const TinyModel tiny("llama3");
  EXPECT_TRUE(measure(tiny, 2, 0, 4, 1) == measure(tiny, 2, 0, 4, 1));
  EXPECT_FALSE(measure(tiny, 2, 0, 4, 1) == measure(tiny, 2, 0, 4, 2));
}

TEST(Gradients, AreThoseOfTheBackendWhereBlasMultiplies) {
  for (const char* name : {"phi3", "qwen3_moe"}) {
    const TinyModel tiny(name);
    const Gradients expected = measure(tiny, 2, 0, 4);
    ThreadPool threads(2);
    Listener listener;
    const auto cpu = make_cpu_backend(threads, best_isa());
    FloatBackend by_blas(*cpu, threads, nullptr);
    const auto got = measure_gradients(tiny.model, by_blas, {.threads = threads, .listener = listener},
                                       {.sequences = tiny.sequences, .first_sequence = 0, .seed = 1});
    ASSERT_TRUE(got.has_value()) << got.error().message;
    for (const auto& [linear, own] : expected)
      for (size_t t = 0; t < own.token.size(); ++t)
        EXPECT_NEAR(got->at(linear).token[t], own.token[t], 1e-3 * own.token[t] + 1e-9) << linear << " " << t;
  }
}

// The same labels are drawn but where rounding decides, which these do not meet.
TEST(Gradients, OnTheDeviceAreThoseOfTheProcessor) {
  ThreadPool threads(4);
  Listener listener;
  const auto cuda = make_cuda_backend(threads);
  if (!cuda) GTEST_SKIP() << cuda.error().message;
  for (const char* name : {"llama3", "qwen3_moe", "gemma3", "phi3"}) {
    const TinyModel tiny(name);
    const Gradients expected = measure(tiny, 2, 0, 4);
    const std::optional<Network> loaded = keep_loaded(tiny.model, **cuda);
    EXPECT_TRUE(loaded.has_value());
    const auto got = measure_gradients(tiny.model, **cuda, {.threads = threads, .listener = listener},
                                       {.sequences = tiny.sequences, .first_sequence = 0, .seed = 1});
    ASSERT_TRUE(got.has_value()) << got.error().message;
    for (const auto& [linear, own] : expected) {
      EXPECT_LT(relative(got->at(linear).token, own.token), 2e-2) << name << " " << linear;
      EXPECT_LT(relative(got->at(linear).row, own.row), 2e-2) << name << " " << linear;
    }
  }
}

TEST(Gradients, TokensAndRowsAddUpToTheSameSquares) {
  const TinyModel tiny("llama2");
  const Gradients gradients = measure(tiny, 2, 0, 4);
  for (const Linear* linear : linears(tiny.model.spec)) {
    const OutputGradients& own = gradients.at(linear->name);
    double by_token = 0, by_row = 0;
    for (const float each : own.token) by_token += each * static_cast<double>(linear->out);
    for (const float each : own.row) by_row += each;
    EXPECT_GT(by_row, 0.0) << linear->name;
    EXPECT_NEAR(by_token / by_row, 1.0, 1e-4) << linear->name;
  }
}

// The head's gradient is p - onehot(label): its expected square over the labels is sum p (1 - p).
TEST(Gradients, OfTheHeadAreThoseOfDrawnLabels) {
  const TinyModel tiny("llama2");
  const Gradients gradients = measure(tiny, 2, 0, 4);
  double sum = 0;
  for (const float each : gradients.at("lm_head").token) sum += each * static_cast<double>(tiny.model.spec.vocabulary);
  const double mean = sum / (4 * 24);
  EXPECT_GT(mean, 0.5);
  EXPECT_LT(mean, 1.1);
}

TEST(TokenWeights, HaveMeanOneAndCountEveryLinearOfATapPointAlike) {
  const TinyModel tiny("llama2");
  Gradients gradients = measure(tiny, 2, 0, 4);
  const TokenWeights weights = token_weights(tiny.model.spec, gradients);
  for (const auto& [tap, weight] : weights) {
    double sum = 0;
    for (const float each : weight) sum += each;
    EXPECT_NEAR(sum / static_cast<double>(weight.size()), 1.0, 1e-5) << tap;
  }
  for (float& each : gradients.at("model.layers.0.self_attn.v_proj").token) each *= 100;
  const TokenWeights again = token_weights(tiny.model.spec, gradients);
  const auto& changed = again.at("model.layers.0.self_attn.input");
  const auto& before = weights.at("model.layers.0.self_attn.input");
  for (size_t t = 0; t < before.size(); ++t) EXPECT_NEAR(changed[t], before[t], 1e-4 * before[t] + 1e-6);
}

TEST(TokenWeights, OneTokenDoesNotDecideAlone) {
  const TinyModel tiny("llama2");
  Gradients gradients = measure(tiny, 2, 0, 4);
  const std::string name = "model.layers.0.mlp.down_proj";  // alone at its tap point
  gradients.at(name).token[7] *= 1e6f;
  const TokenWeights weights = token_weights(tiny.model.spec, gradients);
  const std::vector<float>& weight = weights.at(name);
  double sum = 0, squares = 0;
  for (const float each : weight) sum += each, squares += static_cast<double>(each) * each;
  EXPECT_NEAR(weight[7], 8.0, 0.01);
  EXPECT_GT(sum * sum / squares, static_cast<double>(weight.size()) / 8);
}

TEST(TokenWeights, WeightedMomentIsThatOfScaledTokens) {
  ThreadPool threads(2);
  const std::vector<float> x = {1, 2, 3, 4, 5, 6}, weight = {0.5f, 0.0f, 2.0f};
  SecondMoment moment(2);
  FloatProducts products(threads);
  moment.add(x.data(), 3, products, weight.data());
  const Buffer<float> h = moment.take();
  EXPECT_NEAR(h[0], (0.5 * 1 + 2 * 25) / 2.5, 3e-4);
  EXPECT_NEAR(h[1], (0.5 * 2 + 2 * 30) / 2.5, 3e-4);
  EXPECT_EQ(h[1], h[2]);
  EXPECT_NEAR(h[3], (0.5 * 4 + 2 * 36) / 2.5, 3e-4);
}

TEST(TokenWeights, SequencesThatAreNotMeasuredCountAsTheMean) {
  const std::vector<bool> is_measured = spread_sequences(5, 2);
  EXPECT_EQ(std::count(is_measured.begin(), is_measured.end(), true), 2);
  EXPECT_EQ(spread_sequences(3, 7), std::vector<bool>(3, true));
  const TokenWeights all = with_means({{"tap", {2.0f, 0.5f, 0.25f, 1.25f}}}, {false, true, false, true}, 2);
  EXPECT_EQ(all.at("tap"), (std::vector<float>{1, 1, 2.0f, 0.5f, 1, 1, 0.25f, 1.25f}));
}

}  // namespace
}  // namespace tq
