#include "quantize/stage_budgets.h"

#include <gtest/gtest.h>

#include "quantize/budget.h"
#include "quantize/calibrate_plan.h"
#include "quantize/plan.h"

namespace tq {
namespace {

struct Shapes {
  const char* name;
  int64_t hidden, intermediate, layers, heads, kv_heads, vocabulary;
};
constexpr Shapes kShapes[] = {{"135m", 576, 1536, 30, 9, 3, 49152},
                              {"0.5b", 896, 4864, 24, 14, 2, 151936},
                              {"8b", 4096, 14336, 32, 32, 8, 128256},
                              {"70b", 8192, 28672, 80, 64, 8, 128256}};

ModelSpec spec_of(const Shapes& shapes) {
  return shapes_of({{"architectures", {"LlamaForCausalLM"}},
                    {"hidden_size", shapes.hidden},
                    {"intermediate_size", shapes.intermediate},
                    {"num_hidden_layers", shapes.layers},
                    {"num_attention_heads", shapes.heads},
                    {"num_key_value_heads", shapes.kv_heads},
                    {"vocab_size", shapes.vocabulary},
                    {"max_position_embeddings", 8192},
                    {"rms_norm_eps", 1e-5},
                    {"rope_theta", 500000.0}},
                   shapes.name)
      ->spec;
}

QuantizeOptions everything(Effort effort) {
  QuantizeOptions options;
  options.effort = effort;
  options.gradients = options.allocate = options.calibrate = options.tune = true;
  return options;
}

double weights_of(const ModelSpec& spec) {
  return static_cast<double>(count_weights(spec).linears) + static_cast<double>(spec.head.in) * static_cast<double>(spec.head.out);
}

// What a stage cannot do without may take more at effort fast, where the held-out text and the fewest tokens are all there is.
TEST(StageBudgets, AreRespectedByModelsOfEverySize) {
  for (const Shapes& shapes : kShapes) {
    SCOPED_TRACE(shapes.name);
    const ModelSpec spec = spec_of(shapes);
    for (const Effort effort : {Effort::kFast, Effort::kNormal})
      for (const Trainer trainer : {Trainer::kProcessor, Trainer::kBfloat16, Trainer::kWideBfloat16, Trainer::kTiles, Trainer::kDevice}) {
        const double slack = effort == Effort::kFast && trainer == Trainer::kProcessor ? 3.0 : 1.1;
        const QuantizeOptions options = with_stage_budgets(spec, everything(effort), trainer);
        const StageOperations operations = stage_operations(spec, options);
        const StageBudgets budgets = stage_budgets(effort, trainer);
        EXPECT_LE(operations.gradients, slack * budgets.gradients * weights_of(spec));
        EXPECT_LE(operations.calibration, slack * budgets.calibration * weights_of(spec));
        EXPECT_LE(operations.tuning, slack * budgets.tuning * weights_of(spec));
        EXPECT_LE(operations.allocation, slack * budgets.allocation * weights_of(spec));
        EXPECT_GT(operations.gradients, 0);
        EXPECT_GT(operations.allocation, 0);
        EXPECT_GT(operations.calibration, 0);
        EXPECT_GT(operations.tuning, 0);
      }
  }
}

TEST(StageBudgets, ProcessorsRoundByLongerWindowsBesideACalibrationWhereThereIsTime) {
  const ModelSpec spec = spec_of(kShapes[0]);
  const auto windows = [&](QuantizeOptions options, Trainer trainer) { return with_stage_budgets(spec, options, trainer).rounding; };
  for (const Trainer trainer : {Trainer::kProcessor, Trainer::kBfloat16, Trainer::kWideBfloat16, Trainer::kTiles}) {
    EXPECT_EQ(windows(everything(Effort::kFast), trainer), Effort::kNormal);
    EXPECT_EQ(windows(everything(Effort::kBest), trainer), std::nullopt);
  }
  EXPECT_EQ(windows(everything(Effort::kNormal), Trainer::kTiles), std::nullopt);
  EXPECT_EQ(windows(everything(Effort::kNormal), Trainer::kWideBfloat16), Effort::kBest);
  EXPECT_EQ(windows(everything(Effort::kNormal), Trainer::kBfloat16), std::nullopt);
  EXPECT_EQ(windows(everything(Effort::kFast), Trainer::kDevice), std::nullopt);
  QuantizeOptions options = everything(Effort::kFast);
  options.rounding = Effort::kFast;  // what is given stays
  EXPECT_EQ(windows(options, Trainer::kTiles), Effort::kFast);
  options.rounding.reset(), options.calibrate = false;
  EXPECT_EQ(windows(options, Trainer::kTiles), std::nullopt);
  options = everything(Effort::kFast), options.method = Method::kQuip;  // has no windows
  EXPECT_EQ(windows(options, Trainer::kTiles), std::nullopt);
  options.rounding = Effort::kBest;
  EXPECT_EQ(taps_of(options), taps_of(Effort::kBest));
}

TEST(StageBudgets, MoreEffortAndFasterProductsGetNoLess) {
  const ModelSpec spec = spec_of(kShapes[1]);
  const auto all = [&](Effort effort, Trainer trainer) {
    const StageOperations of = stage_operations(spec, with_stage_budgets(spec, everything(effort), trainer));
    return of.gradients + of.allocation + of.calibration + of.tuning;
  };
  EXPECT_LT(all(Effort::kFast, Trainer::kProcessor), 0.5 * all(Effort::kNormal, Trainer::kProcessor));
  EXPECT_LT(all(Effort::kFast, Trainer::kTiles), 0.25 * all(Effort::kNormal, Trainer::kTiles));
  EXPECT_LT(all(Effort::kFast, Trainer::kBfloat16), 0.25 * all(Effort::kNormal, Trainer::kBfloat16));
  EXPECT_LT(all(Effort::kFast, Trainer::kWideBfloat16), 0.25 * all(Effort::kNormal, Trainer::kWideBfloat16));
  EXPECT_LT(all(Effort::kNormal, Trainer::kProcessor), all(Effort::kNormal, Trainer::kBfloat16));
  EXPECT_LT(all(Effort::kNormal, Trainer::kBfloat16), all(Effort::kNormal, Trainer::kWideBfloat16));
  EXPECT_LT(all(Effort::kNormal, Trainer::kWideBfloat16), all(Effort::kNormal, Trainer::kTiles));
  EXPECT_LT(all(Effort::kNormal, Trainer::kTiles), all(Effort::kNormal, Trainer::kDevice));
  EXPECT_LE(all(Effort::kNormal, Trainer::kDevice), all(Effort::kBest, Trainer::kDevice));
}

TEST(StageBudgets, LeaveTheHighestEffortAlone) {
  const ModelSpec spec = spec_of(kShapes[0]);
  const QuantizeOptions options = with_stage_budgets(spec, everything(Effort::kBest), Trainer::kProcessor);
  EXPECT_EQ(options.calibration_tokens, 0);
  EXPECT_EQ(options.gradient_tokens, 0);
  EXPECT_EQ(options.allocate_tokens, 0);
  EXPECT_EQ(options.calibrate_steps, 0);
  EXPECT_EQ(options.tune_steps, 0);
}

TEST(StageBudgets, WhatIsGivenStays) {
  const ModelSpec spec = spec_of(kShapes[0]);
  QuantizeOptions options = everything(Effort::kFast);
  options.calibration_tokens = 100'000, options.gradient_tokens = 90'000;
  options.calibrate_steps = 100, options.calibrate_sequences = 7, options.tune_steps = 1000, options.allocate_tokens = 12'345;
  const QuantizeOptions limited = with_stage_budgets(spec, options, Trainer::kProcessor);
  EXPECT_EQ(limited.calibration_tokens, 100'000);
  EXPECT_EQ(limited.gradient_tokens, 90'000);
  EXPECT_EQ(limited.calibrate_steps, 100);
  EXPECT_EQ(limited.calibrate_sequences, 7);
  EXPECT_EQ(limited.tune_steps, 1000);
  EXPECT_EQ(limited.allocate_tokens, 12'345);
}

// Sequences of a step and steps together take what there is.
TEST(StageBudgets, StepsLeaveLittleOver) {
  const ModelSpec spec = spec_of(kShapes[1]);
  QuantizeOptions options = everything(Effort::kNormal);
  options.gradients = false;
  const double taken = stage_operations(spec, with_stage_budgets(spec, options, Trainer::kTiles)).calibration;
  EXPECT_GT(taken, 0.9 * stage_budgets(Effort::kNormal, Trainer::kTiles).calibration * weights_of(spec));
}

TEST(StageBudgets, StagesThatAreOffChangeNothing) {
  const ModelSpec spec = spec_of(kShapes[0]);
  const QuantizeOptions limited = with_stage_budgets(spec, QuantizeOptions{}, Trainer::kProcessor);
  EXPECT_EQ(limited.calibration_tokens, 0);
  EXPECT_EQ(limited.calibrate_steps, 0);
  EXPECT_EQ(limited.tune_steps, 0);
}

TEST(UsualStages, AreThoseThatTheMachineCanBear) {
  const auto is_on = [](Effort effort, Trainer trainer, std::optional<bool> given = {}, Method method = Method::kTurboquant) {
    QuantizeOptions options;
    options.effort = effort, options.method = method, options.tune = given;
    return uses_tuning(with_usual_stages(options, trainer));
  };
  EXPECT_FALSE(is_on(Effort::kFast, Trainer::kDevice));
  EXPECT_FALSE(is_on(Effort::kNormal, Trainer::kProcessor));
  EXPECT_FALSE(is_on(Effort::kNormal, Trainer::kTiles));
  EXPECT_TRUE(is_on(Effort::kNormal, Trainer::kDevice));
  EXPECT_TRUE(is_on(Effort::kBest, Trainer::kProcessor));
  EXPECT_TRUE(is_on(Effort::kFast, Trainer::kProcessor, true));
  EXPECT_FALSE(is_on(Effort::kBest, Trainer::kDevice, false));
  EXPECT_FALSE(is_on(Effort::kBest, Trainer::kDevice, {}, Method::kGptq));
  QuantizeOptions best;
  best.effort = Effort::kBest;
  EXPECT_TRUE(uses_allocation(with_usual_stages(best, Trainer::kProcessor)));
  EXPECT_FALSE(uses_gradients(with_usual_stages(best, Trainer::kProcessor)));  // gains nothing once blocks are calibrated
  best.gradients = true;
  EXPECT_TRUE(uses_gradients(with_usual_stages(best, Trainer::kProcessor)));
  best.bits = 2;
  EXPECT_TRUE(uses_allocation(with_usual_stages(best, Trainer::kProcessor)));
  best.allocate = false;  // as --rates says it
  EXPECT_FALSE(uses_allocation(with_usual_stages(best, Trainer::kProcessor)));
  QuantizeOptions rival;
  rival.method = Method::kGptq, rival.effort = Effort::kBest;
  EXPECT_FALSE(uses_gradients(with_usual_stages(rival, Trainer::kDevice)));
}

}  // namespace
}  // namespace tq
