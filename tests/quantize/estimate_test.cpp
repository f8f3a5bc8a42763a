#include "quantize/estimate.h"

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.h"
#include "quantize/budget.h"
#include "quantize/stage_budgets.h"

namespace tq {
namespace {

Json qwen_half_billion() {
  return {{"architectures", {"Qwen2ForCausalLM"}},
          {"hidden_size", 896},
          {"intermediate_size", 4864},
          {"num_hidden_layers", 24},
          {"num_attention_heads", 14},
          {"num_key_value_heads", 2},
          {"vocab_size", 151936},
          {"rms_norm_eps", 1e-6},
          {"tie_word_embeddings", true},
          {"max_position_embeddings", 32768}};
}

// docs/method.md: bits 76 s by 424 k tokens at four rates, costs 37 of them; bench/README.md: blocks 206 to 367 s, tuning 42 to 58 s beside
// another run; rounding alone 3 s and 18 s.
TEST(CardTime, IsThatOfTheMeasuredRun) {
  const Model model = *shapes_of(qwen_half_billion(), "config.json");
  QuantizeOptions options;
  options.effort = Effort::kBest, options.embedding_bits = options.head_bits = 0;
  const TimeEstimate plain = card_time(model, *make_plan(model, options));
  EXPECT_NEAR(plain.statistics, 3.2, 0.4);
  EXPECT_NEAR(plain.rounding, 18, 2);
  EXPECT_EQ(plain.allocation + plain.calibration + plain.tuning, 0);
  options.allocate = options.calibrate = options.tune = true;
  options.calibration_tokens = 192 << 10, options.tune_steps = 192;
  const TimeEstimate all = card_time(model, *make_plan(model, options));
  EXPECT_GT(all.allocation, 50);
  EXPECT_LT(all.allocation, 100);
  EXPECT_GT(all.calibration, 206);
  EXPECT_LT(all.calibration, 367);
  EXPECT_GT(all.tuning, 42);
  EXPECT_LT(all.tuning, 58);
  EXPECT_EQ(all.statistics + all.rounding, 0) << "the blocks' time has them";
}

// Of 48 sequences 2048 tokens have candidates of four; token weights are those of all.
TEST(CardTime, CandidatesAreMeasuredOnTheTextThatTheyHave) {
  const Model model = *shapes_of(qwen_half_billion(), "config.json");
  QuantizeOptions options;
  options.embedding_bits = options.head_bits = 0;
  options.allocate = true, options.allocate_tokens = 2048;
  const TimeEstimate few = card_time(model, *make_plan(model, options));
  options.gradients = true;
  const TimeEstimate all = card_time(model, *make_plan(model, options));
  EXPECT_NEAR(all.allocation - few.allocation, 44.0 / 48 * few.statistics, 1e-6 * few.statistics);
}

TEST(CardTime, NeedsShapesAlone) {
  Json config = qwen_half_billion();
  config["num_hidden_layers"] = 2;
  const Model model = *shapes_of(config, "config.json");
  EXPECT_GT(card_time(model, *make_plan(model, {})).all(), 0);
}

TEST(EstimateTime, NeedsShapesAloneAndEveryStageTakesItsPart) {
  Json config = qwen_half_billion();
  config["num_hidden_layers"] = 2;
  const Model model = *shapes_of(config, "config.json");
  ThreadPool threads(2);
  Listener listener;
  const Context context{.threads = threads, .listener = listener};
  const std::unique_ptr<Backend> backend = make_cpu_backend(threads, best_isa());
  QuantizeOptions options;
  options.allocate = options.calibrate = options.tune = true;
  options = with_stage_budgets(model.spec, options, Trainer::kProcessor);
  const TimeEstimate all = estimate_time(model, *make_plan(model, options), *backend, context);
  for (const double stage : {all.statistics, all.rounding, all.allocation, all.calibration, all.tuning}) EXPECT_GT(stage, 0);
  EXPECT_GT(all.calibration, all.statistics);
}

TEST(StageOperations, TwiceTheStepsOfACalibrationTakeTheirShareOnceMore) {
  const Model model = *shapes_of(qwen_half_billion(), "config.json");
  QuantizeOptions options;
  options.calibrate = true, options.calibrate_steps = 8;
  const StageOperations once = stage_operations(model.spec, options);
  options.calibrate_steps *= 2;
  const StageOperations twice = stage_operations(model.spec, options);
  EXPECT_GT(once.of_calibration.steps, 0);
  EXPECT_GT(once.of_calibration.passes, 0);
  EXPECT_NEAR(twice.calibration - once.calibration, once.of_calibration.steps, 1e-9 * once.calibration);
}

}  // namespace
}  // namespace tq
