// Inputs that nothing can be rounded under are refused, whoever reads them.
#include "quantize/round_steps.h"

#include <gmock/gmock.h>

#include <cmath>

#include "base/rng.h"
#include "convert/family_fixture.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/float_products.h"

namespace tq {
namespace {

using namespace families_test;
using ::testing::HasSubstr;

struct Layer {
  explicit Layer(const std::string& name) {
    const Fixture fixture = load_fixture(name);
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    model = read(load_model(directory / "model"));
    QuantizeOptions options;
    options.effort = Effort::kFast;
    plan = *make_plan(model, options);
  }
  // Of random inputs; those of one expert (-1: of no mixture) of one tap point are far too large.
  Statistics statistics(const std::string& large_tap, int64_t large_expert) {
    Statistics out;
    for (const TensorPlan& tensor : plan.layers[0]) {
      const Linear& linear = tensor.linear;
      for (int64_t expert = linear.experts > 0 ? 0 : -1; expert < std::max<int64_t>(0, linear.experts); ++expert) {
        if (out.contains({linear.tap, expert})) continue;
        const bool is_large = linear.tap == large_tap && expert == large_expert;
        const int64_t tokens = linear.in;
        std::vector<float> input(static_cast<size_t>(tokens * linear.in));
        Rng random(3);
        for (float& value : input) value = static_cast<float>(random.gaussian()) * (is_large ? 1e25f : 1.0f);
        InputStatistics each{SecondMoment(linear.in), ActivationError(sign_of(linear.tap, linear.in, 0), linear.in), Magnitude(linear.in)};
        each.moment.add(input.data(), tokens, products);
        out.emplace(InputKey{linear.tap, expert}, std::move(each));
      }
    }
    return out;
  }
  Result<std::vector<RoundedStep>> round(const std::string& large_tap, int64_t large_expert) {
    std::vector<PendingStep> steps(1);
    steps[0] = {"layer-00000", &plan.layers[0], statistics(large_tap, large_expert)};
    return round_steps(model, plan, steps, *backend, {threads, listener});
  }

  TemporaryDirectory directory;
  Model model;
  QuantizePlan plan;
  ThreadPool threads{2};
  FloatProducts products{threads};
  Listener listener;
  std::unique_ptr<Backend> backend = make_cpu_backend(threads, best_isa());
};

TEST(RoundSteps, InputsThatOverflowAreRefusedByTheirName) {
  for (const char* name : {"llama2", "mixtral"}) {
    Layer layer(name);
    ASSERT_TRUE(layer.round("", -1).has_value()) << name;
    for (const TensorPlan& tensor : layer.plan.layers[0]) {
      const Linear& linear = tensor.linear;
      const int64_t expert = linear.experts > 0 ? linear.experts - 1 : -1;
      const auto refused = layer.round(linear.tap, expert);
      ASSERT_FALSE(refused.has_value()) << linear.name << " of " << name;
      EXPECT_EQ(refused.error().code, ErrorCode::kBadInput);
      EXPECT_THAT(refused.error().message, HasSubstr("what reaches " + linear.tap)) << linear.name;
    }
  }
}

}  // namespace
}  // namespace tq
