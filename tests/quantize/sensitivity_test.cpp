#include "quantize/sensitivity.h"

#include <gtest/gtest.h>

#include <numeric>

#include "convert/family_fixture.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/matrices.h"
#include "quantize/rates.h"
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

double sum(const std::vector<double>& costs) { return std::accumulate(costs.begin(), costs.end(), 0.0); }

RoundingCosts costs_of(TinyModel& tiny, const Model& standing, const std::vector<std::pair<int, const Model*>>& candidates) {
  return read(rounding_costs(*tiny.backend, tiny.context,
                             {.original = tiny.original, .standing = standing, .candidates = candidates, .sequences = tiny.sequences}));
}

// Around the original, where nothing else is off, the costs add up to what the divergence grows by, linear by linear.
TEST(Sensitivity, CostsOfSmallErrorsAreTheDivergencesTheyMake) {
  for (const char* name : {"llama2", "phi3_short", "qwen3_moe"}) {
    TinyModel tiny(name);
    const Model rounded = disturbed(tiny.original, 0.05, 1);
    const RoundingCosts costs = costs_of(tiny, tiny.original, {{4, &rounded}});
    auto trials = Trials::create(tiny.original, tiny.original, *tiny.backend, tiny.context, tiny.sequences, 1);
    ASSERT_TRUE(trials.has_value());
    double predicted = 0, measured = 0;
    for (const auto& [linear, rates] : costs) {
      const std::string tensor = linear + ".weight";
      predicted += sum(rates.at(4));
      measured += *trials->divergence({{tensor, rounded.find(tensor)}});
    }
    EXPECT_GT(predicted / measured, 0.6) << name;
    EXPECT_LT(predicted / measured, 1.4) << name;
  }
}

TEST(Sensitivity, CostsGrowWithTheSquareOfTheDistanceFromTheOriginal) {
  TinyModel tiny("llama2");
  const Model standing = disturbed(tiny.original, 0.1, 1);  // wherever the model stands
  const Model near = disturbed(tiny.original, 0.02, 100), far = disturbed(tiny.original, 0.06, 100);
  const RoundingCosts costs = costs_of(tiny, standing, {{3, &far}, {4, &near}, {8, &tiny.original}});
  EXPECT_EQ(costs.size(), rated_linears(tiny.original.spec).size());
  for (const auto& [linear, rates] : costs) {
    ASSERT_GT(sum(rates.at(4)), 0.0) << linear;
    EXPECT_NEAR(sum(rates.at(3)) / sum(rates.at(4)), 9.0, 0.05) << linear;
    EXPECT_EQ(sum(rates.at(8)), 0.0) << linear;
  }
}

TEST(Sensitivity, EveryRangeOfEveryExpertHasItsOwn) {
  TinyModel tiny("qwen3_moe");
  Model rounded = tiny.original;
  const std::vector<const Linear*> rated = rated_linears(tiny.original.spec);
  const Linear& stack = **std::find_if(rated.begin(), rated.end(), [](const Linear* linear) { return linear->experts > 1; });
  const std::string name = stack.name + ".weight";
  Buffer<float> values = decode(*rounded.find(name));
  const auto expert = static_cast<size_t>(stack.in * stack.out);  // the second's first row
  for (size_t c = 0; c < static_cast<size_t>(stack.in); ++c) values[expert + c] *= 1.1f;
  rounded.tensors[name] = plain_tensor(rounded.find(name)->shape, std::move(values));
  const RoundingCosts costs = costs_of(tiny, tiny.original, {{4, &rounded}});
  const std::vector<double>& own = costs.at(stack.name).at(4);
  const size_t ranges = static_cast<size_t>(ranges_of(stack) / stack.experts);
  for (size_t i = 0; i < own.size(); ++i) EXPECT_EQ(own[i] > 0, i == ranges) << i;
}

TEST(Sensitivity, IsTheSameByOneWaveOrSeveral) {
  TinyModel tiny("qwen3_moe");
  const Model rounded = disturbed(tiny.original, 0.05, 1);
  const std::vector<std::pair<int, const Model*>> candidates = {{4, &rounded}};
  SensitivityRequest request{
      .original = tiny.original, .standing = rounded, .candidates = candidates, .sequences = tiny.sequences, .seed = 3};
  const RoundingCosts one = read(rounding_costs(*tiny.backend, tiny.context, request));
  request.wave_bytes = 1;  // a sequence each
  const RoundingCosts several = read(rounding_costs(*tiny.backend, tiny.context, request));
  for (const auto& [linear, rates] : one)
    for (size_t i = 0; i < rates.at(4).size(); ++i)
      EXPECT_NEAR(several.at(linear).at(4)[i], rates.at(4)[i], 1e-5 * sum(rates.at(4))) << linear;
}

TEST(Sensitivity, OnTheDeviceIsThatOfTheProcessor) {
  ThreadPool threads(4);
  const auto cuda = make_cuda_backend(threads);
  if (!cuda) GTEST_SKIP() << cuda.error().message;
  for (const char* name : {"llama2", "qwen3_moe"}) {
    TinyModel tiny(name);
    const Model standing = disturbed(tiny.original, 0.1, 1), rounded = disturbed(tiny.original, 0.05, 100);
    const std::vector<std::pair<int, const Model*>> candidates = {{4, &rounded}};
    const RoundingCosts expected = costs_of(tiny, standing, candidates);
    const RoundingCosts got = read(rounding_costs(
        **cuda, tiny.context, {.original = tiny.original, .standing = standing, .candidates = candidates, .sequences = tiny.sequences}));
    std::vector<float> here_costs, there_costs;
    for (const auto& [linear, rates] : expected)
      for (size_t i = 0; i < rates.at(4).size(); ++i) {
        here_costs.push_back(static_cast<float>(rates.at(4)[i]));
        there_costs.push_back(static_cast<float>(got.at(linear).at(4)[i]));
      }
    EXPECT_LT(relative(there_costs, here_costs), 2e-2) << name;  // products of factors of 11 bits
    auto here = Trials::create(tiny.original, standing, *tiny.backend, tiny.context, tiny.sequences),
         there = Trials::create(tiny.original, standing, **cuda, tiny.context, tiny.sequences);
    ASSERT_TRUE(here.has_value() && there.has_value());
    const std::string changed = "model.layers.0.self_attn.v_proj.weight";
    for (const Trials::Changes& changes : {Trials::Changes{}, Trials::Changes{{changed, rounded.find(changed)}}})
      EXPECT_NEAR(*there->divergence(changes) / *here->divergence(changes), 1.0, 5e-3) << name;
  }
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
