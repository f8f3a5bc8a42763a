#include "quantize/tune.h"

#include <gmock/gmock.h>

#include "codec/e8p/e8p.h"
#include "codec/grid/taps.h"
#include "codec/grid_matrix.h"
#include "convert/family_fixture.h"
#include "kernels/cpu/cpu_backend.h"
#include "quantize/float_backend.h"

namespace tq {
namespace {

using namespace families_test;

// A linear of random bits at 3 bits a weight.
PackedTensor random_grid(const Linear& linear, uint64_t seed) {
  grid::TapsByRate taps;
  taps[3] = grid::default_taps(3, 9);
  const auto experts = static_cast<size_t>(std::max<int64_t>(1, linear.experts));
  const std::vector<uint8_t> rates(static_cast<size_t>((linear.out + grid::kRateRows - 1) / grid::kRateRows), 3);
  Shape shape = {linear.out, linear.in};
  if (linear.experts > 0) shape.insert(shape.begin(), linear.experts);
  const auto stored = std::make_shared<grid::StoredMatrix>(shape, std::vector(experts, rates), taps, seed);
  for (uint16_t& scale : stored->row_scale) scale = float_to_f16(f16_to_float(scale) / std::sqrt(static_cast<float>(linear.in)));
  PackedTensor tensor = stored->tensor;
  tensor.owner = stored;
  return tensor;
}

// A linear of random E8P vectors at 2 bits with row scales near 1.
PackedTensor random_e8p(const Linear& linear, uint64_t seed) {
  struct Stored {
    std::vector<uint16_t> vectors, scales;
    std::vector<uint8_t> row_sign, sign;
    std::vector<float> stage;
    e8p::Table absolute = e8p::absolute_table();
  };
  const auto stored = std::make_shared<Stored>();
  Rng rng(seed);
  for (int64_t i = 0; i < linear.out * linear.in / e8p::kWidth; ++i) stored->vectors.push_back(static_cast<uint16_t>(rng.bits()));
  for (int64_t r = 0; r < linear.out; ++r) stored->scales.push_back(float_to_f16(static_cast<float>(0.8 + 0.4 * rng.uniform())));
  for (int64_t i = 0; i < (linear.out + 7) / 8; ++i) stored->row_sign.push_back(static_cast<uint8_t>(rng.bits()));
  for (int64_t i = 0; i < (linear.in + 7) / 8; ++i) stored->sign.push_back(static_cast<uint8_t>(rng.bits()));
  stored->stage = {1.0f / std::sqrt(static_cast<float>(linear.in)), 0.0f};
  PackedTensor tensor{.codec = CodecId::kE8p, .shape = {linear.out, linear.in}};
  const auto add = [&](const char* name, DType dtype, const auto& values) {
    tensor.parts.push_back({name, {dtype, {static_cast<int64_t>(values.size())}, reinterpret_cast<const std::byte*>(values.data())}});
  };
  add("vectors", DType::kU16, stored->vectors), add("row_scale", DType::kF16, stored->scales),
      add("row_sign", DType::kU8, stored->row_sign);
  add("sign", DType::kU8, stored->sign), add("stage", DType::kF32, stored->stage), add("e8p.absolute", DType::kF32, stored->absolute);
  tensor.owner = stored;
  TQ_CHECK(codec_of(CodecId::kE8p).validate(tensor, linear.name).has_value());
  return tensor;
}

// A tiny model whose linears are on the grid, and random sequences of two domains.
struct TinyModel {
  explicit TinyModel(const std::string& name, PackedTensor (*random_linear)(const Linear&, uint64_t) = random_grid)
      : fixture(random_linear == random_grid ? load_fixture(name) : narrowed(load_fixture(name), 168)) {
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    rounded = *load_model(directory / "model");
    uint64_t seed = 1;
    for (const Linear* linear : linears(rounded.spec))
      if (linear->role != Role::kRouter) rounded.tensors.at(linear->name + ".weight") = random_linear(*linear, ++seed);
    if (name == "gemma3") flatten();
    Rng rng(7);
    const auto sequence = [&] {
      std::vector<TokenId> out(static_cast<size_t>(settings.length));
      for (TokenId& token : out) token = static_cast<TokenId>(rng.bits() % static_cast<uint64_t>(rounded.spec.vocabulary));
      return out;
    };
    for (int i = 0; i < 12; ++i) text.sequences.push_back(sequence());
    for (int i = 0; i < 4; ++i) text.held_out.push_back(sequence());
  }

  // Makes the logits small, for distributions that the layers have a say in: random embeddings that are also the head would predict the
  // token itself.
  void flatten() {
    PackedTensor& norm = rounded.tensors.at(rounded.spec.final_norm.name + ".weight");
    Buffer<float> values(static_cast<size_t>(rounded.spec.hidden));
    for (float& each : values) each = 0.05f - rounded.spec.norm_offset;
    norm = plain_tensor(norm.shape, std::move(values));
  }

  // What the rounded model becomes when each of its vectors is moved as a whole.
  Model moved(double size, uint64_t seed) const {
    const Tunables tunables(rounded);
    std::vector<float> theta(static_cast<size_t>(tunables.count()));
    Rng rng(seed);
    for (const TunableVector& vector : tunables.vectors())
      std::fill_n(theta.begin() + vector.first, vector.count, static_cast<float>(size * rng.gaussian()));
    return tunables.moved(rounded, theta);
  }

  Fixture fixture;
  TemporaryDirectory directory;
  Model rounded;
  TuneSettings settings{.steps = 40, .batch = 2, .length = 24, .measures = 4, .rate = 0.02, .seed = 3};
  TuningText text{{}, {}, {0, 1, 0, 1}, {"one", "other"}};
};

struct Machine {
  explicit Machine(int count) : threads(count) {}
  ThreadPool threads;
  Listener listener;
  Context context{.threads = threads, .listener = listener};
  std::unique_ptr<Backend> cpu = make_cpu_backend(threads, best_isa());
  FloatBackend backend{*cpu, threads};
};

Tuner make_tuner(const TinyModel& tiny, const Model& original, Machine& machine) {
  auto tuner = Tuner::create({original, tiny.rounded, tiny.text, tiny.settings}, machine.backend, machine.context);
  TQ_CHECK(tuner.has_value());
  return std::move(*tuner);
}

void advance(const Tuner& tuner, TuneState& state) {
  const Status status = const_cast<Tuner&>(tuner).advance(state);
  ASSERT_TRUE(status.has_value()) << status.error().message;
}

TuneState tuned(const TinyModel& tiny, const Model& original, int threads) {
  Machine machine(threads);
  Tuner tuner = make_tuner(tiny, original, machine);
  TuneState state = tuner.start();
  while (!tuner.is_done(state) && !testing::Test::HasFatalFailure()) advance(tuner, state);
  return state;
}

double kept(const TuneState& state) {
  for (const TunePoint& point : state.held_out)
    if (point.step == state.best_step) return point.mean();
  return -1;
}

TEST(Tuning, BringsDisturbedScalesNormsAndBiasesBack) {
  for (const char* name : {"qwen2", "qwen3", "gemma3", "qwen3_moe", "phi3"}) {
    const TinyModel tiny(name);
    const TuneState state = tuned(tiny, tiny.moved(0.15, 5), 2);
    EXPECT_GT(state.best_step, 0) << name;
    EXPECT_LT(kept(state), 0.6 * state.held_out[0].mean()) << name;
  }
}

class TuningOf : public testing::TestWithParam<PackedTensor (*)(const Linear&, uint64_t)> {};
INSTANTIATE_TEST_SUITE_P(All, TuningOf, testing::Values(random_grid, random_e8p),
                         [](const auto& instance) { return std::string(instance.index == 0 ? "grid" : "e8p"); });

TEST_P(TuningOf, FindsTheRowScalesThatWereDisturbed) {
  const TinyModel tiny("llama2", GetParam());
  const Tunables tunables(tiny.rounded);
  const TunableVector& vector = *tunables.find(TunableKind::kRowScale, "model.layers.1.mlp.down_proj");
  std::vector<float> wanted(static_cast<size_t>(tunables.count()));
  Rng rng(9);
  for (int64_t i = 0; i < vector.count; ++i) wanted[static_cast<size_t>(vector.first + i)] = static_cast<float>(0.3 * rng.gaussian());
  const TuneState state = tuned(tiny, tunables.moved(tiny.rounded, wanted), 2);
  double product = 0, squares = 0, found = 0;
  for (int64_t i = 0; i < vector.count; ++i) {
    const double w = wanted[static_cast<size_t>(vector.first + i)], f = state.best[static_cast<size_t>(vector.first + i)];
    product += w * f, squares += w * w, found += f * f;
  }
  EXPECT_GT(product / std::sqrt(squares * found), 0.5);
}

TEST(Tuning, KeepsTheUntunedValuesWhereHeldOutTextGetsWorse) {
  TinyModel tiny("llama2");
  tiny.settings.rate = 2.0;
  tiny.settings.steps = 4;
  const TuneState state = tuned(tiny, tiny.moved(0.01, 5), 2);
  EXPECT_EQ(state.best_step, 0);
  EXPECT_GT(state.held_out.back().mean(), state.held_out[0].mean());
  EXPECT_THAT(state.best, testing::Each(0.0f));
}

TEST(Tuning, NoDomainMayGetWorseByMoreThanTwoPercent) {
  const TunePoint untuned{0, {0.10, 0.20}};
  EXPECT_TRUE(is_better({1, {0.09, 0.18}}, untuned, untuned.mean()));
  EXPECT_TRUE(is_better({1, {0.1019, 0.18}}, untuned, untuned.mean()));
  EXPECT_FALSE(is_better({1, {0.1021, 0.10}}, untuned, untuned.mean()));
  EXPECT_FALSE(is_better({1, {0.09, 0.18}}, untuned, 0.13));
  EXPECT_FALSE(is_better({1, {std::nan(""), 0.1}}, untuned, untuned.mean()));
}

TEST(Tuning, IsTheSameOnAnyNumberOfThreadsAndContinuesFromAStoredState) {
  for (const char* name : {"qwen2", "qwen3_moe"}) {
    TinyModel tiny(name);
    tiny.settings.steps = 6, tiny.settings.measures = 3;
    const Model original = tiny.moved(0.1, 5);
    const TuneState whole = tuned(tiny, original, 1);
    TuneState parts;
    {
      Machine machine(2);
      Tuner tuner = make_tuner(tiny, original, machine);
      parts = tuner.start();
      while (parts.held_out.size() < 2) advance(tuner, parts);
    }
    Machine machine(3);
    Tuner tuner = make_tuner(tiny, original, machine);
    while (!tuner.is_done(parts)) advance(tuner, parts);
    EXPECT_EQ(parts.theta, whole.theta) << name;
    EXPECT_EQ(parts.best, whole.best) << name;
    EXPECT_EQ(parts.losses, whole.losses) << name;
  }
}

TEST(Tuning, NoStepIsTheStoredModel) {
  const TinyModel tiny("gemma3");
  const Tunables tunables(tiny.rounded);
  const Model same = tunables.moved(tiny.rounded, std::vector<float>(static_cast<size_t>(tunables.count())));
  for (const auto& [name, tensor] : tiny.rounded.tensors) {
    const Buffer<float> before = decode(tensor), after = decode(*same.find(name));
    EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin(), after.end())) << name;
  }
}

TEST(Adam, FirstStepsHaveTheSizeOfTheRate) {
  Adam adam(3);
  std::vector<float> theta = {1, 1, 1};
  const std::vector<float> rate = {0.1f, 0.1f, 0.0f}, gradient = {1e-4f, -30.0f, 1.0f};
  adam.step(gradient, rate, theta);
  adam.step(gradient, rate, theta);
  EXPECT_NEAR(theta[0], 0.8, 1e-5);
  EXPECT_NEAR(theta[1], 1.2, 1e-5);
  EXPECT_EQ(theta[2], 1.0f);
}

TEST(Adam, RatesRiseAndFall) {
  EXPECT_NEAR(rate_factor(0, 100), 0.1, 1e-12);
  EXPECT_NEAR(rate_factor(10, 100), 1.0, 1e-12);
  EXPECT_LT(rate_factor(99, 100), 0.06);
  for (int64_t step = 11; step < 100; ++step) EXPECT_LT(rate_factor(step, 100), rate_factor(step - 1, 100));
  EXPECT_EQ(rate_factor(0, 1), 1.0);
}

TEST(TuneSettings, RateFollowsTheDivergenceUpToABound) {
  EXPECT_DOUBLE_EQ(usual_tuning_rate(0.02), 9e-3 * 0.02);
  EXPECT_DOUBLE_EQ(usual_tuning_rate(2.0), 3e-3);
}

}  // namespace
}  // namespace tq
