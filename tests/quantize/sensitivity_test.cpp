#include "quantize/sensitivity.h"

#include <gtest/gtest.h>

#include "convert/family_fixture.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/matrices.h"
#include "quantize/trials.h"

namespace tq {
namespace {

using namespace families_test;

// A copy of the model with Gaussian noise of a relative size added to every linear of the layers.
Model disturbed(const Model& model, double size, uint64_t seed) {
  Model out = model;
  for (const Linear* linear : linears(model.spec)) {
    const std::string name = linear->name + ".weight";
    Rng rng(seed++);
    Buffer<float> values = decode(*model.find(name));
    double squares = 0;
    for (const float each : values) squares += static_cast<double>(each) * each;
    const double scale = size * std::sqrt(squares / static_cast<double>(values.size()));
    for (float& each : values) each += static_cast<float>(scale * rng.gaussian());
    out.tensors[name] = plain_tensor(model.find(name)->shape, std::move(values));
  }
  return out;
}

struct TinyModel {
  explicit TinyModel(const std::string& name) : fixture(load_fixture(name)) {
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    original = read(load_model(directory / "model"));
    for (size_t i = 0; i < 4; ++i) sequences.emplace_back(fixture.tokens.begin() + 3 * i, fixture.tokens.begin() + 3 * i + 32);
  }
  Fixture fixture;
  TemporaryDirectory directory;
  Model original;
  std::vector<std::vector<TokenId>> sequences;
  ThreadPool threads{2};
  Listener listener;
  Context context{.threads = threads, .listener = listener};
  std::unique_ptr<Backend> backend = make_cpu_backend(threads, best_isa());
};

double total(const std::vector<MovePrice>& prices, double MovePrice::*part) {
  double sum = 0;
  for (const MovePrice& price : prices) sum += price.*part;
  return sum;
}

// A small move costs what its first-order price says, and the divergence is that of the base model.
TEST(Sensitivity, PricesOfSmallMovesAreMeasuredDifferences) {
  for (const char* name : {"llama2", "phi3_short"}) {
    TinyModel tiny(name);
    const Model base = disturbed(tiny.original, 0.1, 1);
    const Model moved = disturbed(base, 0.005, 100), opposite = disturbed(base, -0.005, 100);
    const std::vector<std::pair<int, const Model*>> candidates = {{4, &moved}};
    const auto priced = price_moves(*tiny.backend, tiny.context,
                                    {.original = tiny.original, .base = base, .candidates = candidates, .sequences = tiny.sequences});
    ASSERT_TRUE(priced.has_value()) << priced.error().message;
    auto trials = Trials::create(tiny.original, base, *tiny.backend, tiny.context, tiny.sequences, 1);
    ASSERT_TRUE(trials.has_value());
    const double before = *trials->divergence({});
    EXPECT_NEAR(priced->divergence / before, 1.0, 1e-4);
    double largest = 0;
    for (const auto& [linear, prices] : priced->prices) largest = std::max(largest, std::fabs(total(prices.at(4), &MovePrice::first)));
    for (const auto& [linear, prices] : priced->prices) {
      const std::string tensor = linear + ".weight";
      const double there = *trials->divergence({{tensor, moved.find(tensor)}}),
                   back = *trials->divergence({{tensor, opposite.find(tensor)}});
      EXPECT_NEAR(total(prices.at(4), &MovePrice::first), 0.5 * (there - back), 0.03 * largest) << linear;
      EXPECT_GT(total(prices.at(4), &MovePrice::second), 0.0) << linear;
    }
  }
}

// Undoing the rounding of a linear gains; the first order overstates it, and the second takes a part of that back.
TEST(Sensitivity, MovesBackToTheOriginalGain) {
  TinyModel tiny("llama2");
  const Model base = disturbed(tiny.original, 0.05, 1);
  const std::vector<std::pair<int, const Model*>> candidates = {{8, &tiny.original}};
  const auto priced = price_moves(*tiny.backend, tiny.context,
                                  {.original = tiny.original, .base = base, .candidates = candidates, .sequences = tiny.sequences});
  ASSERT_TRUE(priced.has_value());
  auto trials = Trials::create(tiny.original, base, *tiny.backend, tiny.context, tiny.sequences, 1);
  ASSERT_TRUE(trials.has_value());
  const double before = *trials->divergence({});
  double predicted = 0, measured = 0;
  for (const auto& [linear, prices] : priced->prices) {
    const std::string tensor = linear + ".weight";
    predicted += total(prices.at(8), &MovePrice::first) + total(prices.at(8), &MovePrice::second);
    measured += *trials->divergence({{tensor, tiny.original.find(tensor)}}) - before;
  }
  EXPECT_LT(measured, 0.0);
  EXPECT_GT(predicted / measured, 0.7);
  EXPECT_LT(predicted / measured, 1.4);
}

TEST(Sensitivity, OnTheDeviceIsThatOfTheProcessor) {
  ThreadPool threads(4);
  const auto cuda = make_cuda_backend(threads);
  if (!cuda) GTEST_SKIP() << cuda.error().message;
  for (const char* name : {"llama2", "qwen3_moe"}) {
    TinyModel tiny(name);
    const Model base = disturbed(tiny.original, 0.1, 1), moved = disturbed(base, 0.05, 100);
    const std::vector<std::pair<int, const Model*>> candidates = {{4, &moved}};
    const SensitivityRequest request{.original = tiny.original, .base = base, .candidates = candidates, .sequences = tiny.sequences};
    const auto expected = price_moves(*tiny.backend, tiny.context, request), got = price_moves(**cuda, tiny.context, request);
    ASSERT_TRUE(expected.has_value() && got.has_value());
    EXPECT_NEAR(got->divergence / expected->divergence, 1.0, 5e-3);  // products of factors of 11 bits
    std::vector<float> first[2], second[2];
    for (const auto& [linear, prices] : expected->prices)
      for (size_t i = 0; i < prices.at(4).size(); ++i)
        for (int side = 0; side < 2; ++side) {
          const MovePrice& price = (side == 0 ? *expected : *got).prices.at(linear).at(4)[i];
          first[side].push_back(static_cast<float>(price.first)), second[side].push_back(static_cast<float>(price.second));
        }
    EXPECT_LT(relative(first[1], first[0]), 2e-2) << name;
    EXPECT_LT(relative(second[1], second[0]), 2e-2) << name;
    auto here = Trials::create(tiny.original, base, *tiny.backend, tiny.context, tiny.sequences),
         there = Trials::create(tiny.original, base, **cuda, tiny.context, tiny.sequences);
    ASSERT_TRUE(here.has_value() && there.has_value());
    const std::string changed = "model.layers.0.self_attn.v_proj.weight";
    for (const Trials::Changes& changes : {Trials::Changes{}, Trials::Changes{{changed, moved.find(changed)}}})
      EXPECT_NEAR(*there->divergence(changes) / *here->divergence(changes), 1.0, 5e-3) << name;
  }
}

TEST(Trials, SeveralTakenTogetherAreWhatTheyAreAlone) {
  TinyModel tiny("qwen3");
  auto trials = Trials::create(tiny.original, disturbed(tiny.original, 0.05, 7), *tiny.backend, tiny.context, tiny.sequences, 2);
  ASSERT_TRUE(trials.has_value());
  const Model other = disturbed(tiny.original, 0.1, 1);
  const std::string early = "model.layers.0.mlp.down_proj.weight", late = "model.layers.1.self_attn.v_proj.weight";
  const PackedTensor *first = other.find(early), *last = other.find(late);
  const std::vector<Trials::Changes> all = {{{late, last}}, {{early, first}}, {}, {{early, first}, {late, last}}};
  const auto together = trials->divergences(all);
  ASSERT_TRUE(together.has_value());
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ((*together)[i], *trials->divergence(all[i])) << i;
  EXPECT_NE((*together)[0], (*together)[3]);
}

TEST(Trials, EqualModelsDoNotDivergeAndChangesAreUndone) {
  TinyModel tiny("qwen3");
  auto trials = Trials::create(tiny.original, tiny.original, *tiny.backend, tiny.context, tiny.sequences, 4);
  ASSERT_TRUE(trials.has_value());
  EXPECT_NEAR(*trials->divergence({}), 0.0, 1e-7);
  const Model other = disturbed(tiny.original, 0.1, 1);
  const std::string name = "model.layers.1.self_attn.v_proj.weight";
  EXPECT_GT(*trials->divergence({{name, other.find(name)}}), 1e-5);
  EXPECT_NEAR(*trials->divergence({}), 0.0, 1e-7);
}

}  // namespace
}  // namespace tq
