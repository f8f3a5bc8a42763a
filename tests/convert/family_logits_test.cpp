// Every family against the logits that transformers gives the same files.
#include <set>

#include <gmock/gmock.h>

#include "convert/export_hf.h"
#include "convert/family_fixture.h"
#include "io/safetensors.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace tq {
namespace {

using namespace families_test;
using ::testing::HasSubstr;

constexpr double kLimit = 2e-4;  // of the largest logit, as both round in float32

class FamilyLogits : public testing::TestWithParam<std::string> {
 protected:
  Model read(const Json& config, DType dtype, uint64_t shard_bytes, const std::string& name) {
    write_hf(fixture_.weights, config, dtype, shard_bytes, directory_ / name);
    auto model = load_model(directory_ / name);
    EXPECT_TRUE(model.has_value()) << (model ? "" : model.error().message);
    return model ? std::move(*model) : Model{};
  }

  ThreadPool threads_{2};
  Fixture fixture_ = load_fixture(GetParam());
  TemporaryDirectory directory_;
  std::unique_ptr<Backend> ref_ = make_ref_backend(threads_);
};

TEST_P(FamilyLogits, AreThoseOfTransformersAtOnceAndTokenByToken) {
  const Model model = read(fixture_.json["config"], DType::kF32, 1 << 30, "v5");
  EXPECT_LT(error(run(model, fixture_, *ref_, 48), fixture_.logits), kLimit);
  EXPECT_LT(error(run(model, fixture_, *ref_, 1), fixture_.logits), kLimit);
  EXPECT_LT(error(run(model, fixture_, *ref_, 7), fixture_.logits), kLimit);
}

TEST_P(FamilyLogits, HoldOnEveryInstructionSet) {
  const Model model = read(fixture_.json["config"], DType::kF32, 1 << 30, "v5");
  for (const Isa isa : supported_isas()) {
    const auto cpu = make_cpu_backend(threads_, isa);
    for (const int64_t step : {48, 1, 11})
      EXPECT_LT(error(run(model, fixture_, *cpu, step), fixture_.logits), kLimit) << isa_name(isa) << " " << step;
  }
}

TEST_P(FamilyLogits, HoldOnTheDevice) {
  const auto cuda = make_cuda_backend(threads_);
  if (!cuda) GTEST_SKIP() << cuda.error().message;
  const Model model = read(fixture_.json["config"], DType::kF32, 1 << 30, "v5");
  for (const int64_t step : {48, 1, 11}) EXPECT_LT(error(run(model, fixture_, **cuda, step), fixture_.logits), kLimit) << step;
}

TEST_P(FamilyLogits, DoNotDependOnSpellingShardsOrTypeOfTheFiles) {
  const Json& v4 = fixture_.json["config_v4"];
  ASSERT_TRUE(v4.is_object());
  EXPECT_LT(error(run(read(v4, DType::kBF16, 100000, "bf16"), fixture_, *ref_, 48), fixture_.logits), kLimit);
  EXPECT_TRUE(std::filesystem::exists(directory_ / "bf16/model.safetensors.index.json"));
  EXPECT_LT(error(run(read(v4, DType::kF16, 1 << 30, "f16"), fixture_, *ref_, 48), fixture_.logits), kLimit);
}

TEST_P(FamilyLogits, SurviveAnExport) {
  const Model model = read(fixture_.json["config"], DType::kF32, 1 << 30, "v5");
  Listener listener;
  const Context context{.threads = threads_, .listener = listener};
  ASSERT_TRUE(export_hf(model, DType::kF32, directory_ / "out", context));
  const auto again = load_model(directory_ / "out");
  ASSERT_TRUE(again.has_value()) << again.error().message;
  EXPECT_EQ(run(*again, fixture_, *ref_, 48), run(model, fixture_, *ref_, 48));
  std::set<std::string> written, published;  // the names that transformers gives
  const auto archive = families_test::read(safetensors::Archive::open_directory(directory_ / "out"));
  for (const auto& tensor : archive->tensors()) written.insert(tensor.name);
  for (const Weight& weight : fixture_.weights) published.insert(weight.name);
  EXPECT_EQ(written, published);
  ASSERT_TRUE(export_hf(model, DType::kBF16, directory_ / "half", context));
  const auto half = load_model(directory_ / "half");
  ASSERT_TRUE(half.has_value()) << half.error().message;
  EXPECT_EQ(half->config["dtype"], "bfloat16");
  EXPECT_LT(error(run(*half, fixture_, *ref_, 48), fixture_.logits), kLimit);
}

TEST(Export, RefusesValuesThatHalvesCannotHold) {
  ThreadPool threads(2);
  Listener listener;
  Fixture fixture = load_fixture("llama2");
  for (const auto& [value, is_refused] : {std::pair{65519.0f, false}, {65520.0f, true}, {-1e30f, true}}) {
    fixture.weights.front().values[3] = value;
    TemporaryDirectory directory;
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    const Model model = families_test::read(load_model(directory / "model"));
    const Status halves = export_hf(model, DType::kF16, directory / "halves", {.threads = threads, .listener = listener});
    EXPECT_EQ(halves.has_value(), !is_refused) << value;
    if (!halves) EXPECT_THAT(halves.error().message, HasSubstr(fixture.weights.front().name));
    EXPECT_EQ(std::filesystem::exists(directory / "halves"), !is_refused);
    EXPECT_TRUE(export_hf(model, DType::kBF16, directory / "bfloats", {.threads = threads, .listener = listener}).has_value());
  }
}

TEST(Export, RefusesValuesThatBfloatsCannotHold) {
  ThreadPool threads(2);
  Listener listener;
  Fixture fixture = load_fixture("llama2");
  fixture.weights.front().values[3] = 3.4e38f;
  TemporaryDirectory directory;
  write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
  const Model model = families_test::read(load_model(directory / "model"));
  const Status bfloats = export_hf(model, DType::kBF16, directory / "bfloats", {.threads = threads, .listener = listener});
  ASSERT_FALSE(bfloats.has_value());
  EXPECT_THAT(bfloats.error().message, HasSubstr(fixture.weights.front().name));
  EXPECT_FALSE(std::filesystem::exists(directory / "bfloats"));
  EXPECT_TRUE(export_hf(model, DType::kF32, directory / "floats", {.threads = threads, .listener = listener}).has_value());
}

TEST(NotFinite, IsRefusedByRunAndByExportWithTheTensorsName) {
  ThreadPool threads(2);
  const auto ref = make_ref_backend(threads);
  Listener listener;
  const Fixture fixture = load_fixture("llama2");
  for (const char* name : {"model.norm.weight", "model.layers.1.mlp.up_proj.weight"}) {
    std::vector<Weight> weights = fixture.weights;
    for (Weight& weight : weights)
      if (weight.name == name) weight.values[5] = std::nanf("");
    TemporaryDirectory directory;
    write_hf(weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    const auto model = load_model(directory / "model");
    ASSERT_TRUE(model.has_value()) << model.error().message;
    const Status exported = export_hf(*model, DType::kBF16, directory / "out", {.threads = threads, .listener = listener});
    ASSERT_FALSE(exported.has_value());
    EXPECT_THAT(exported.error().message, HasSubstr(directory / "model" + ": tensor " + name + " holds"));
    EXPECT_FALSE(std::filesystem::exists(directory / "out"));
    if (std::string(name).find("norm") == std::string::npos) continue;  // matrices are not scanned before they run
    const auto network = Network::create(*model, *ref);
    ASSERT_FALSE(network.has_value());
    EXPECT_THAT(network.error().message, HasSubstr(name));
  }
}

INSTANTIATE_TEST_SUITE_P(Every, FamilyLogits, testing::ValuesIn(names()), [](const auto& each) { return each.param; });

}  // namespace
}  // namespace tq
