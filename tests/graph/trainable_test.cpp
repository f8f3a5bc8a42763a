// What training is told of a linear, a layer traced apart, and weights that change.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/rng.h"
#include "convert/family_fixture.h"
#include "graph/training_pass.h"
#include "kernels/cpu/cpu_backend.h"

namespace tq {
namespace {

using namespace families_test;

struct TinyModel {
  explicit TinyModel(const std::string& name) : fixture(load_fixture(name)) {
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    model = read(load_model(directory / "model"));
    sequences = {{fixture.tokens.begin(), fixture.tokens.begin() + 18}, {fixture.tokens.begin() + 5, fixture.tokens.begin() + 23}};
  }
  // Next-token losses.
  TrainingPassArgs args(Backend& backend) {
    TrainingPassArgs out{.sequences = sequences};
    out.loss = [this, &backend](int64_t sequence, const LossChunk& chunk) {
      const auto& tokens = sequences[static_cast<size_t>(sequence)];
      std::vector<int32_t> labels;
      for (int64_t t = chunk.first; t < chunk.first + chunk.tokens; ++t)
        labels.push_back(t + 1 < static_cast<int64_t>(tokens.size()) ? tokens[static_cast<size_t>(t + 1)] : -1);
      backend.training()->cross_entropy(
          {.logits = chunk.logits, .labels = labels, .gradient = chunk.gradient, .loss = chunk.loss, .vocabulary = model.spec.vocabulary});
    };
    return out;
  }

  Fixture fixture;
  TemporaryDirectory directory;
  Model model;
  std::vector<std::vector<int32_t>> sequences;
  ThreadPool threads{2};
  Listener listener;
  Context context{.threads = threads, .listener = listener};
};

class Trainable : public testing::TestWithParam<std::string> {};

double norm_of(const std::vector<double>& x) { return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0)); }

TEST_P(Trainable, OutputsOfLinearsAreTheirProductsBeforeAnythingElse) {
  TinyModel tiny(GetParam());
  const auto ref = make_ref_backend(tiny.threads);
  TrainingPassArgs args = tiny.args(*ref);
  int64_t seen = 0;
  args.linear = [&](int64_t, const LinearGradient& gradient) {
    const Linear& linear = gradient.linear;
    const Buffer<float> weights = decode(*tiny.model.find(linear.name + ".weight"));
    const float* own = weights.data() + gradient.expert * linear.out * linear.in;
    for (const int64_t t : {int64_t{0}, gradient.tokens - 1})
      for (int64_t r = 0; r < linear.out; r += 7) {
        const float* input = gradient.input + t * linear.in;
        const double bias = gradient.bias ? gradient.bias[r] : 0.0;
        const double expected = std::inner_product(input, input + linear.in, own + r * linear.in, bias);
        EXPECT_NEAR(gradient.output[t * linear.out + r], expected, 1e-4 * (1 + std::fabs(expected))) << linear.name;
      }
    EXPECT_EQ(gradient.bias != nullptr, linear.bias) << linear.name;
    ++seen;
  };
  ASSERT_TRUE(training_pass(tiny.model, *ref, tiny.context, args).has_value());
  EXPECT_GT(seen, 0);
}

// dL / d log(scale of row r) = <dL/dW[r], W[r]>
TEST_P(Trainable, GradientsOfRowScalesAreThoseOfTheWeightsAlongTheRows) {
  TinyModel tiny(GetParam());
  const auto cpu = make_cpu_backend(tiny.threads, best_isa());
  Training& training = *cpu->training();
  TrainingPassArgs args = tiny.args(*cpu);
  args.linear = [&](int64_t, const LinearGradient& gradient) {
    const Linear& linear = gradient.linear;
    const Buffer<float> weights = decode(*tiny.model.find(linear.name + ".weight"));
    std::vector<float> by_weight(static_cast<size_t>(linear.out * linear.in)), sum(static_cast<size_t>(linear.out));
    training.weight({gradient.input, gradient.gradient, by_weight.data(), gradient.tokens, linear.in, linear.out, 0, linear.out});
    training.row_scale_gradient({gradient.output, gradient.bias, gradient.gradient, sum.data(), gradient.tokens, linear.out});
    std::vector<double> difference, expected;
    for (int64_t r = 0; r < linear.out; ++r) {
      const float* own = weights.data() + (gradient.expert * linear.out + r) * linear.in;
      expected.push_back(std::inner_product(own, own + linear.in, by_weight.data() + r * linear.in, 0.0));
      difference.push_back(sum[static_cast<size_t>(r)] - expected.back());
    }
    EXPECT_LE(norm_of(difference), 1e-4 * norm_of(expected) + 1e-7) << linear.name;
  };
  ASSERT_TRUE(training_pass(tiny.model, *cpu, tiny.context, args).has_value());
}

TEST_P(Trainable, TracesGiveTheHiddenStatesOfTheForwardPass) {
  TinyModel tiny(GetParam());
  const auto cpu = make_cpu_backend(tiny.threads, best_isa());
  const ModelSpec& spec = tiny.model.spec;
  const auto& tokens = tiny.sequences[0];
  const auto length = static_cast<int64_t>(tokens.size()), count = length * spec.hidden;
  std::vector<float> hidden(static_cast<size_t>(count));
  embed(tiny.model, tokens, *cpu, hidden.data());
  Workspace workspace(*cpu);
  BackwardWorkspace backward(*cpu);
  for (int64_t layer = 0; layer < spec.layers_count(); ++layer) {
    const LayerWeights weights = *prepare_layer(tiny.model, layer, *cpu);
    const KvCache cache = *KvCache::create(*cpu, spec, KvType::kF32, length, layer, layer + 1);
    const float* traced =
        trace_layer(spec, layer, weights, *cpu, {.input = hidden.data(), .tokens = length, .kv = cache.layer(layer)}, backward);
    const Stretch whole{.tokens = length};
    forward_layer(spec, layer, weights, *cpu,
                  {.hidden = hidden.data(), .stretches = {&whole, 1}, .kv = cache.layer(layer), .precision = Precision::kFloat}, workspace);
    for (int64_t i = 0; i < count; ++i) EXPECT_NEAR(traced[i], hidden[static_cast<size_t>(i)], 1e-4) << layer;
  }
}

// A few steps of Adam on every weight lower the loss of what they were taken on.
TEST_P(Trainable, StepsOnAllWeightsLowerTheLoss) {
  TinyModel tiny(GetParam());
  const auto cpu = make_cpu_backend(tiny.threads, best_isa());
  Training& training = *cpu->training();
  const TrainableModel weights = *prepare_trainable(tiny.model, *cpu);
  struct Trained {
    float* value;
    std::vector<float> gradient, first, second;
    Trained(float* at, int64_t count) : value(at), gradient(static_cast<size_t>(count)), first(gradient), second(gradient) {}
  };
  std::map<std::pair<std::string, int64_t>, Trained> trained;
  const auto add = [&](const Linear& linear, int64_t expert, const LinearWeight& weight) {
    trained.try_emplace({linear.name, expert}, training.weights(*weight.matrix), linear.out * linear.in);
  };
  for (size_t layer = 0; layer < weights.layers.size(); ++layer)
    for (size_t b = 0; b < weights.layers[layer].size(); ++b) {
      const BlockWeights& block = weights.layers[layer][b];
      size_t plain = 0, stacked = 0;
      for (const Linear* linear : linears(tiny.model.spec.layers[layer][b])) {
        if (linear->experts == 0) add(*linear, 0, block.linears[plain++]);
        for (int64_t e = 0; e < linear->experts; ++e) add(*linear, e, block.experts[static_cast<size_t>(e)][stacked]);
        stacked += linear->experts > 0;
      }
    }
  TrainingPassArgs args = tiny.args(*cpu);
  args.weights = &weights;
  args.linear = [&](int64_t, const LinearGradient& gradient) {
    const Linear& linear = gradient.linear;
    const auto found = trained.find({linear.name, gradient.expert});
    if (found == trained.end()) return;
    training.weight(
        {gradient.input, gradient.gradient, found->second.gradient.data(), gradient.tokens, linear.in, linear.out, 0, linear.out});
  };
  const double before = *training_pass(tiny.model, *cpu, tiny.context, args);
  for (int64_t step = 1; step <= 3; ++step) {
    for (auto& [name, each] : trained)
      training.adam({.value = each.value,
                     .gradient = each.gradient.data(),
                     .first = each.first.data(),
                     .second = each.second.data(),
                     .count = static_cast<int64_t>(each.gradient.size()),
                     .step = step,
                     .rate = 1e-3f});
    const double after = *training_pass(tiny.model, *cpu, tiny.context, args);
    if (step == 3) EXPECT_LT(after, 0.98 * before);
  }
}

TEST_P(Trainable, WeightsAsFloatsGiveTheGradientsOfTheModel) {
  TinyModel tiny(GetParam());
  const auto cpu = make_cpu_backend(tiny.threads, best_isa());
  const TrainableModel weights = *prepare_trainable(tiny.model, *cpu);
  const auto embedded = [&](const TrainableModel* resident) {
    std::vector<double> all;
    TrainingPassArgs args = tiny.args(*cpu);
    args.weights = resident;
    args.embedded = [&](int64_t, const float* gradient) { all.insert(all.end(), gradient, gradient + 18 * tiny.model.spec.hidden); };
    EXPECT_TRUE(training_pass(tiny.model, *cpu, tiny.context, args).has_value());
    return all;
  };
  const std::vector<double> expected = embedded(nullptr);
  std::vector<double> difference = embedded(&weights);
  ASSERT_EQ(difference.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) difference[i] -= expected[i];
  EXPECT_LE(norm_of(difference), 1e-4 * norm_of(expected));
}

// Finite at the logits, no more so behind the head.
TEST(NotFiniteInALayer, IsFoundAtItsLinear) {
  TinyModel tiny("llama2");
  const auto cpu = make_cpu_backend(tiny.threads, best_isa());
  TrainingPassArgs args = tiny.args(*cpu);
  args.loss = [&](int64_t, const LossChunk& chunk) {
    std::fill_n(chunk.gradient, chunk.tokens * tiny.model.spec.vocabulary, 3e38f);
    std::fill_n(chunk.loss, chunk.tokens, 0.0);
  };
  const auto result = training_pass(tiny.model, *cpu, tiny.context, args);
  ASSERT_FALSE(result.has_value());
  EXPECT_NE(result.error().message.find("layers.1.mlp.down_proj"), std::string::npos) << result.error().message;
}

INSTANTIATE_TEST_SUITE_P(Every, Trainable, testing::ValuesIn(families_test::names()), [](const auto& each) { return each.param; });

}  // namespace
}  // namespace tq
