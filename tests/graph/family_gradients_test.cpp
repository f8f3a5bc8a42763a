// The gradients of the tiny models of every family: against finite differences in double precision, and against torch's autograd.
#include <set>

#include <gtest/gtest.h>

#include "base/hash.h"
#include "base/rng.h"
#include "convert/family_fixture.h"
#include "graph/double_model.h"
#include "graph/training_pass.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/matrices.h"

namespace tq {
namespace {

using families_test::Fixture;
using graph_test::DoubleModel;
using Gradients = std::map<std::string, std::vector<double>>;  // by tensor name

struct TinyModel {
  explicit TinyModel(const std::string& name, const std::function<void(Json&)>& change = {})
      : TinyModel(families_test::load_fixture(name), change) {}
  TinyModel(Fixture given, const std::function<void(Json&)>& change) : fixture(std::move(given)) {
    Json config = fixture.json["config"];
    if (change) change(config);
    families_test::write_hf(fixture.weights, config, DType::kF32, 1 << 30, directory / "model");
    model = families_test::read(load_model(directory / "model"));
  }
  // Enough for every window to slide and the long rope to be used.
  std::vector<int32_t> tokens() const { return {fixture.tokens.begin(), fixture.tokens.begin() + (fixture.name == "phi3" ? 36 : 18)}; }

  Fixture fixture;
  families_test::TemporaryDirectory directory;
  Model model;
};

void add_rows(std::vector<double>& sum, size_t offset, const std::vector<float>& part) {
  for (size_t i = 0; i < part.size(); ++i) sum[offset + i] += part[i];
}

std::vector<float> on_host(Backend& backend, const float* from, int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  backend.download(out.data(), from, out.size() * sizeof(float));
  return out;
}

// The gradients of the sum of next-token losses by every weight.
Gradients gradients_of(const Model& model, const std::vector<int32_t>& tokens, Backend& backend, ThreadPool& threads, double* loss) {
  Gradients out;
  for (const std::string& name : tensor_names(model.spec)) out[name].resize(static_cast<size_t>(element_count(model.find(name)->shape)));
  Listener listener;
  const std::vector<std::vector<int32_t>> sequences = {tokens};
  TrainingPassArgs args{.sequences = sequences};
  std::vector<int32_t> labels(tokens.begin() + 1, tokens.end());
  labels.push_back(-1);
  args.loss = [&](int64_t, const LossChunk& chunk) {
    backend.training()->cross_entropy(
        {.logits = chunk.logits,
         .labels = std::span(labels).subspan(static_cast<size_t>(chunk.first), static_cast<size_t>(chunk.tokens)),
         .gradient = chunk.gradient,
         .loss = chunk.loss,
         .vocabulary = model.spec.vocabulary});
  };
  args.linear = [&](int64_t, const LinearGradient& gradient) {
    const Linear& linear = gradient.linear;
    Floats weight(backend, std::vector<float>(static_cast<size_t>(linear.out * linear.in)));
    for (int64_t first = 0; first < linear.out; first += 37) {  // in bands
      const int64_t rows = std::min<int64_t>(37, linear.out - first);
      backend.training()->weight({.input = gradient.input,
                                  .gradient = gradient.gradient,
                                  .weight_gradient = weight.data() + first * linear.in,
                                  .tokens = gradient.tokens,
                                  .columns = linear.in,
                                  .all_rows = linear.out,
                                  .first_row = first,
                                  .rows = rows});
    }
    add_rows(out[linear.name + ".weight"], static_cast<size_t>(gradient.expert * linear.out * linear.in), weight.values());
    if (!linear.bias) return;
    Floats bias(backend, std::vector<float>(static_cast<size_t>(linear.out)));
    backend.training()->column_sum({gradient.gradient, bias.data(), gradient.tokens, linear.out});
    add_rows(out[linear.name + ".bias"], 0, bias.values());
  };
  args.norm = [&](const NormGradient& gradient) {
    add_rows(out[gradient.norm.name + ".weight"], 0, on_host(backend, gradient.weight_gradient, gradient.norm.width));
  };
  args.embedded = [&](int64_t, const float* of_tokens) {
    const std::vector<float> gradient = on_host(backend, of_tokens, static_cast<int64_t>(tokens.size()) * model.spec.hidden);
    std::vector<double>& table = out[model.spec.embedding + ".weight"];
    for (size_t t = 0; t < tokens.size(); ++t)
      for (int64_t i = 0; i < model.spec.hidden; ++i)
        table[static_cast<size_t>(tokens[t] * model.spec.hidden + i)] +=
            static_cast<double>(gradient[t * static_cast<size_t>(model.spec.hidden) + static_cast<size_t>(i)]) * model.spec.embed_scale;
  };
  const auto result = training_pass(model, backend, {.threads = threads, .listener = listener}, args);
  EXPECT_TRUE(result.has_value()) << (result ? "" : result.error().message);
  if (loss && result) *loss = *result;
  return out;
}

// The derivative along a random direction of one tensor by central differences of the double-precision loss.
double difference_along(DoubleModel& model, const std::string& name, const std::vector<double>& direction,
                        const std::vector<int32_t>& tokens) {
  const std::vector<double> kept = model.weights[name];
  const auto at = [&](double step) {
    for (size_t i = 0; i < kept.size(); ++i) model.weights[name][i] = kept[i] + step * direction[i];
    return model.loss(tokens);
  };
  const double step = 1e-5, slope = (at(step) - at(-step)) / (2 * step);
  model.weights[name] = kept;
  return slope;
}

std::vector<double> direction_of(const std::string& name, size_t count) {
  Rng rng(hash64(std::as_bytes(std::span<const char>(name)), 5));
  std::vector<double> out(count);
  for (double& each : out) each = rng.gaussian() / std::sqrt(static_cast<double>(count));
  return out;
}

double norm_of(const std::vector<double>& x) { return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0)); }

void expect_differences(const TinyModel& tiny) {
  ThreadPool threads(2);
  const auto ref = make_ref_backend(threads);
  const std::vector<int32_t> tokens = tiny.tokens();
  double loss = 0;
  const Gradients gradients = gradients_of(tiny.model, tokens, *ref, threads, &loss);
  DoubleModel exact(tiny.model);
  EXPECT_NEAR(loss / exact.loss(tokens), 1.0, 1e-5);
  for (const auto& [name, gradient] : gradients) {
    const std::vector<double> direction = direction_of(name, gradient.size());
    const double along = std::inner_product(gradient.begin(), gradient.end(), direction.begin(), 0.0);
    const double scale = norm_of(gradient) / std::sqrt(static_cast<double>(gradient.size()));
    EXPECT_NEAR(along, difference_along(exact, name, direction, tokens), 2e-4 * scale + 1e-9) << name;
  }
}

class FamilyGradients : public testing::TestWithParam<std::string> {};

TEST_P(FamilyGradients, AreThoseOfFiniteDifferences) { expect_differences(TinyModel(GetParam())); }

TEST_P(FamilyGradients, AreTheSameOnTheCpuBackendAndOnAnyNumberOfThreads) {
  const TinyModel tiny(GetParam());
  ThreadPool threads(2), one(1);
  const auto ref = make_ref_backend(threads);
  const Gradients expected = gradients_of(tiny.model, tiny.tokens(), *ref, threads, nullptr);
  for (const Isa isa : supported_isas()) {
    const auto cpu = make_cpu_backend(threads, isa), alone = make_cpu_backend(one, isa);
    const Gradients got = gradients_of(tiny.model, tiny.tokens(), *cpu, threads, nullptr);
    for (const auto& [name, gradient] : expected) {
      std::vector<double> difference = gradient;
      for (size_t i = 0; i < difference.size(); ++i) difference[i] -= got.at(name)[i];
      EXPECT_LE(norm_of(difference), 2e-4 * norm_of(gradient)) << name << " " << isa_name(isa);
    }
    EXPECT_EQ(gradients_of(tiny.model, tiny.tokens(), *alone, one, nullptr), got) << isa_name(isa);
  }
}

// Products of half precision in the mantissas add up over the layers.
TEST_P(FamilyGradients, AreThoseOfTheOracleOnTheDevice) {
  const TinyModel tiny(GetParam());
  ThreadPool threads(4);
  const auto ref = make_ref_backend(threads);
  const auto cuda = make_cuda_backend(threads);
  if (!cuda) GTEST_SKIP() << cuda.error().message;
  double loss = 0, on_device = 0;
  const Gradients expected = gradients_of(tiny.model, tiny.tokens(), *ref, threads, &loss);
  const Gradients got = gradients_of(tiny.model, tiny.tokens(), **cuda, threads, &on_device);
  EXPECT_NEAR(on_device / loss, 1.0, 1e-4);
  for (const auto& [name, gradient] : expected) {
    std::vector<double> difference = gradient;
    for (size_t i = 0; i < difference.size(); ++i) difference[i] -= got.at(name)[i];
    EXPECT_LE(norm_of(difference), 1e-2 * norm_of(gradient)) << name;
  }
}

// probe() of scripts/oracles/family_gradients.py
double dot_with_probe(const std::string& name, const double* values, size_t count) {
  uint64_t seed = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : name + "#probe") seed = (seed ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += values[i] * (static_cast<double>(splitmix64(seed + i) >> 56) - 128) / 128;
  return sum;
}

// Where the gradient of a tensor of the files lies among ours: experts are stacked.
std::span<const double> find_gradient(const Gradients& gradients, const std::string& name, size_t count) {
  const auto found = gradients.find(name);
  if (found != gradients.end()) return found->second;
  const size_t at = name.find(".experts.") + 9, dot = name.find('.', at);
  std::string matrix = name.substr(dot + 1);
  if (matrix == "w1.weight") matrix = "gate_proj.weight";
  if (matrix == "w2.weight") matrix = "down_proj.weight";
  if (matrix == "w3.weight") matrix = "up_proj.weight";
  const auto expert = static_cast<size_t>(std::stoi(name.substr(at, dot - at)));
  const std::vector<double>& stack = gradients.at(name.substr(0, at) + matrix);
  return std::span(stack).subspan(expert * count, count);
}

TEST_P(FamilyGradients, AreThoseOfAutograd) {
  TinyModel tiny(GetParam());
  // Rounded to bfloat16 as in the published code; torch computed in float64.
  if (tiny.model.spec.embed_scale != 1.0f) tiny.model.spec.embed_scale = std::sqrt(static_cast<float>(tiny.model.spec.hidden));
  const Json all = *read_json_file(std::string(TQ_TEST_DATA) + "/families/gradients.json");
  const Json& expected = all[GetParam()];
  ASSERT_EQ(expected["tokens"], tiny.tokens().size());
  ThreadPool threads(2);
  const auto ref = make_ref_backend(threads);
  double loss = 0;
  const Gradients gradients = gradients_of(tiny.model, tiny.tokens(), *ref, threads, &loss);
  EXPECT_NEAR(loss / expected["loss"].get<double>(), 1.0, 1e-5);
  for (const families_test::Weight& weight : tiny.fixture.weights) {
    const Json& numbers = expected["tensors"][weight.name];
    ASSERT_TRUE(numbers.is_array()) << weight.name;
    const std::span<const double> gradient = find_gradient(gradients, weight.name, weight.values.size());
    const double norm = norm_of({gradient.begin(), gradient.end()});
    EXPECT_NEAR(norm, numbers[0].get<double>(), 2e-4 * norm + 1e-9) << weight.name;
    EXPECT_NEAR(dot_with_probe(weight.name, gradient.data(), gradient.size()), numbers[1].get<double>(), 2e-4 * norm + 1e-9) << weight.name;
  }
}

TEST(Softcaps, OfScoresAndLogitsAreDifferentiated) {
  expect_differences(TinyModel("gemma3", [](Json& config) {
    config["attn_logit_softcapping"] = 2.0;
    config["final_logit_softcapping"] = 3.0;
  }));
}

TEST(Router, WeightsThatAreNotNormalisedReachEveryScore) {
  expect_differences(TinyModel("qwen3_moe", [](Json& config) { config["norm_topk_prob"] = false; }));
}

TEST(Activations, EveryKindIsDifferentiated) {
  expect_differences(TinyModel("llama2", [](Json& config) { config["hidden_act"] = "gelu"; }));
  expect_differences(TinyModel("llama2", [](Json& config) { config["hidden_act"] = "gelu_pytorch_tanh"; }));
  expect_differences(TinyModel("mixtral", [](Json& config) { config["hidden_act"] = "gelu"; }));
}

// Its gated MLPs are mixtures of one expert, which every token has whole.
Fixture with_one_expert(Fixture fixture) {
  for (families_test::Weight& weight : fixture.weights)
    for (const auto& [from, to] : {std::pair{"mlp.gate_proj", "w1"}, {"mlp.down_proj", "w2"}, {"mlp.up_proj", "w3"}})
      if (const size_t at = weight.name.find(from); at != std::string::npos)
        weight.name.replace(at, std::string(from).size(), std::string("block_sparse_moe.experts.0.") + to);
  Json& config = fixture.json["config"];
  const auto hidden = config["hidden_size"].get<int64_t>();
  for (int64_t i = 0; i < config["num_hidden_layers"].get<int64_t>(); ++i)
    fixture.weights.push_back(
        {fmt::format("model.layers.{}.block_sparse_moe.gate.weight", i), {1, hidden}, std::vector<float>(static_cast<size_t>(hidden))});
  config["architectures"] = {"MixtralForCausalLM"}, config["model_type"] = "mixtral";
  config["num_local_experts"] = config["num_experts_per_tok"] = 1;
  return fixture;
}

TEST(Activations, OfAMixtureOfOneExpertAreThoseOfTheDenseModel) {
  ThreadPool threads(2);
  const auto ref = make_ref_backend(threads);
  const Fixture fixture = families_test::load_fixture("llama2");
  std::set<double> losses;
  for (const char* name : {"silu", "gelu", "gelu_pytorch_tanh"}) {
    const auto change = [&](Json& config) { config["hidden_act"] = name; };
    const TinyModel dense(fixture, change), mixture(with_one_expert(fixture), change);
    double loss = 0, of_mixture = 0;
    const Gradients expected = gradients_of(dense.model, dense.tokens(), *ref, threads, &loss);
    const Gradients got = gradients_of(mixture.model, mixture.tokens(), *ref, threads, &of_mixture);
    EXPECT_NEAR(of_mixture / loss, 1.0, 1e-6) << name;
    EXPECT_TRUE(losses.insert(loss).second) << name;
    for (auto [tensor, gradient] : expected) {
      const size_t at = tensor.find(".mlp.");
      const std::string in_mixture =
          at == std::string::npos ? tensor : tensor.substr(0, at) + ".block_sparse_moe.experts." + tensor.substr(at + 5);
      const double norm = norm_of(gradient);
      for (size_t i = 0; i < gradient.size(); ++i) gradient[i] -= got.at(in_mixture)[i];
      EXPECT_LE(norm_of(gradient), 1e-5 * norm) << name << " " << tensor;
    }
  }
}

TEST(NotFinite, AGradientThatOverflowsStopsWithTheLinearsName) {
  const TinyModel tiny("llama2");
  ThreadPool threads(2);
  Listener listener;
  const auto cpu = make_cpu_backend(threads, best_isa());
  const std::vector<std::vector<int32_t>> sequences = {tiny.tokens()};
  TrainingPassArgs args{.sequences = sequences};
  args.loss = [&](int64_t, const LossChunk& chunk) {
    std::fill_n(chunk.gradient, chunk.tokens * tiny.model.spec.vocabulary, std::nanf(""));
    std::fill_n(chunk.loss, chunk.tokens, 0.0);
  };
  const auto result = training_pass(tiny.model, *cpu, {.threads = threads, .listener = listener}, args);
  ASSERT_FALSE(result.has_value());
  EXPECT_NE(result.error().message.find("lm_head"), std::string::npos) << result.error().message;
}

INSTANTIATE_TEST_SUITE_P(Every, FamilyGradients, testing::ValuesIn(families_test::names()), [](const auto& each) { return each.param; });

}  // namespace
}  // namespace tq
