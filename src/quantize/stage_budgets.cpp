#include "quantize/stage_budgets.h"

#include <algorithm>
#include <cmath>

#include "base/cpu.h"
#include "quantize/allocation_plan.h"
#include "quantize/calibrate_plan.h"
#include "quantize/calibration.h"
#include "quantize/plan.h"
#include "quantize/tune.h"

namespace tq {
namespace {

constexpr int64_t kLeastTokens = 8192;  // whose second moments are worth rounding by
constexpr int64_t kLeastGradients = 2;  // sequences
constexpr int64_t kLeastSteps = 4;      // of a calibration's stage
constexpr int64_t kFewSteps = 8;        // below which a step's sequences are shortened
constexpr int64_t kShortest = 256;      // tokens of a step's sequences
constexpr int64_t kLeastTuneSteps = 8;
constexpr int64_t kMostPriced = 8192, kLeastPriced = 1024, kPricedStep = 256;  // tokens that bits are chosen by
constexpr double kPassesShare = 0.5;  // of the calibration's operations, at most, unless its tokens are the fewest

double head_weights(const ModelSpec& spec) { return static_cast<double>(spec.head.in) * static_cast<double>(spec.head.out); }
double linear_weights(const ModelSpec& spec) { return static_cast<double>(count_weights(spec).linears); }

int64_t sequence_length(const ModelSpec& spec, const QuantizeOptions& options) { return std::min(options.sequence, spec.context); }

// Forward, forward again where memory is short (counted whole), and the inputs' gradients; of the head, no second time.
double gradient_operations(const ModelSpec& spec, double tokens) { return tokens * (3 * linear_weights(spec) + 2 * head_weights(spec)); }

double tuning_operations(const ModelSpec& spec, const TuneSettings& settings) {
  const double length = static_cast<double>(settings.length);
  const double learned = static_cast<double>(settings.steps * settings.batch) * length;
  const double measured = static_cast<double>((settings.measures + 1) * settings.held_out) * length;
  // A step: the original and the rounded model forward, and the inputs' gradients. A measurement: both forward.
  return (3 * learned + 2 * measured) * (linear_weights(spec) + head_weights(spec));
}

double allocation_operations(const ModelSpec& spec, const QuantizeOptions& options) {
  const int64_t length = sequence_length(spec, options);
  const AllocationPlan plan = allocation_plan(spec, options, static_cast<size_t>(calibration_tokens(options) / length));
  return allocation_operations(spec, plan, static_cast<double>(length));
}

CalibrationOperations calibration_operations(const ModelSpec& spec, const QuantizeOptions& options) {
  return calibration_operations(spec, calibration_budget(options, count_weights(spec).linears),
                                {.tokens = static_cast<double>(calibration_tokens(options)),
                                 .length = static_cast<double>(sequence_length(spec, options)),
                                 .texts = calibration_texts(options)});
}

// To `share` of the operations of the effort's own steps: fewer sequences a step come before fewer steps, as long as all steps together
// have what there is; where they would be very few, shorter sequences.
void limit_steps(const CalibrationBudget& own, double share, int64_t length, QuantizeOptions& options) {
  if (options.calibrate_sequences == 0) {
    options.calibrate_sequences =
        std::clamp<int64_t>(static_cast<int64_t>(std::ceil(share * static_cast<double>(own.sequences))), 1, own.sequences);
    share *= static_cast<double>(own.sequences) / static_cast<double>(options.calibrate_sequences);
  }
  if (options.calibrate_tokens == 0) {
    const int64_t most = own.tokens > 0 ? std::min(own.tokens, length) : length;
    options.calibrate_tokens = most;
    const double wanted = static_cast<double>(std::min(kFewSteps, own.steps)) / static_cast<double>(own.steps);
    while (share < wanted && options.calibrate_tokens >= 2 * kShortest) options.calibrate_tokens /= 2, share *= 2;
  }
  options.calibrate_steps =
      std::clamp(static_cast<int64_t>(share * static_cast<double>(own.steps)), std::min(kLeastSteps, own.steps), own.steps);
}

void limit_calibration(const ModelSpec& spec, double operations, QuantizeOptions& options) {
  const int64_t length = sequence_length(spec, options);
  const bool has_tokens = options.calibration_tokens > 0, has_steps = options.calibrate_steps > 0;
  if (!has_tokens) {
    const int64_t most = calibration_tokens(options);
    options.calibration_tokens = most;
    const double share = calibration_operations(spec, options).passes / (kPassesShare * operations);
    if (share > 1) options.calibration_tokens = static_cast<int64_t>(static_cast<double>(most) / share) / length * length;
    options.calibration_tokens = std::clamp(options.calibration_tokens, std::min(kLeastTokens, most), most);
  }
  if (has_steps) return;
  const CalibrationBudget own = calibration_budget(options, count_weights(spec).linears);
  const CalibrationOperations all = calibration_operations(spec, options);
  if (all.all() <= operations) return;
  limit_steps(own, std::max(0.0, operations - all.passes) / all.steps, length, options);
}

// As many tokens as have a place in the operations, unless the effort's own sequences have.
void limit_allocation(const ModelSpec& spec, double operations, QuantizeOptions& options) {
  if (options.allocate_tokens > 0 || allocation_operations(spec, options) <= operations) return;
  options.allocate_tokens = kMostPriced;
  while (options.allocate_tokens > kLeastPriced && allocation_operations(spec, options) > operations)
    options.allocate_tokens -= kPricedStep;
}

void limit_tuning(const ModelSpec& spec, double operations, QuantizeOptions& options) {
  if (options.tune_steps > 0) return;
  constexpr int64_t kStepsBetween = 8;  // a measurement takes as long as a few steps
  const TuneSettings own = tune_settings(options, spec.context);
  const auto set_steps = [&](int64_t steps) {
    options.tune_steps = steps;
    options.tune_measures = std::clamp<int64_t>(steps / kStepsBetween, 1, own.measures);
  };
  set_steps(own.steps);
  while (options.tune_steps > kLeastTuneSteps && tuning_operations(spec, tune_settings(options, spec.context)) > operations)
    set_steps(options.tune_steps - 1);
}

// Beside calibration on a processor rounding takes little time, though every matrix is rounded twice: windows of the next effort; at normal
// only where training leaves time for them (docs/method.md, "Budgets").
std::optional<Effort> rounding_beside_calibration(Effort effort, Trainer trainer) {
  if (trainer == Trainer::kDevice) return std::nullopt;
  if (effort == Effort::kFast) return Effort::kNormal;
  return effort == Effort::kNormal && trainer == Trainer::kWideBfloat16 ? std::optional(Effort::kBest) : std::nullopt;
}

}  // namespace

Trainer trainer_of(const Backend& training) {
  if (!training.is_host()) return Trainer::kDevice;
  if (training.isa() == Isa::kAmx) return Trainer::kTiles;
  if (training.isa() != Isa::kAvx512Bf16) return Trainer::kProcessor;
  return has_full_width_avx512() ? Trainer::kWideBfloat16 : Trainer::kBfloat16;
}

StageBudgets stage_budgets(Effort effort, Trainer trainer) {
  if (effort == Effort::kBest) return {};
  constexpr StageBudgets kBudgets[5][2] = {{{6e3, 18e3, 36e3, 16e3}, {24e3, 36e3, 200e3, 96e3}},
                                           {{12e3, 24e3, 100e3, 42e3}, {48e3, 72e3, 520e3, 170e3}},
                                           {{18e3, 36e3, 200e3, 64e3}, {72e3, 108e3, 1000e3, 256e3}},
                                           {{24e3, 72e3, 250e3, 64e3}, {96e3, 144e3, 1400e3, 256e3}},
                                           {{96e3, 288e3, 576e3, 256e3}, {384e3, 576e3, 3200e3, 1536e3}}};
  return kBudgets[static_cast<size_t>(trainer)][static_cast<size_t>(effort)];
}

StageOperations stage_operations(const ModelSpec& spec, const QuantizeOptions& options) {
  StageOperations out;
  const double tokens = static_cast<double>(calibration_tokens(options));
  if (uses_gradients(options))
    out.gradients =
        gradient_operations(spec, options.gradient_tokens > 0 ? std::min(tokens, static_cast<double>(options.gradient_tokens)) : tokens);
  if (uses_allocation(options)) out.allocation = allocation_operations(spec, options);
  if (uses_calibration(options)) {
    out.of_calibration = calibration_operations(spec, options);
    out.calibration = out.of_calibration.all();
  }
  if (uses_tuning(options)) out.tuning = tuning_operations(spec, tune_settings(options, spec.context));
  return out;
}

QuantizeOptions with_usual_stages(QuantizeOptions options, Trainer trainer) {
  if (options.method != Method::kTurboquant) return options;
  const bool is_on = options.effort == Effort::kBest || (options.effort == Effort::kNormal && trainer == Trainer::kDevice);
  for (std::optional<bool>* stage : {&options.allocate, &options.calibrate, &options.tune}) *stage = stage->value_or(is_on);
  return options;
}

QuantizeOptions with_stage_budgets(const ModelSpec& spec, QuantizeOptions options, Trainer trainer) {
  const StageBudgets budgets = stage_budgets(options.effort, trainer);
  const double weights = linear_weights(spec) + head_weights(spec);
  if (uses_calibration(options) && options.method == Method::kTurboquant && !options.rounding)
    options.rounding = rounding_beside_calibration(options.effort, trainer);
  if (uses_calibration(options) && budgets.calibration > 0) limit_calibration(spec, budgets.calibration * weights, options);
  if (uses_gradients(options) && budgets.gradients > 0 && options.gradient_tokens == 0) {
    const int64_t length = sequence_length(spec, options), all = calibration_tokens(options);
    const auto tokens = static_cast<int64_t>(budgets.gradients * weights / gradient_operations(spec, 1)) / length * length;
    options.gradient_tokens = std::min(all, std::max(tokens, kLeastGradients * length));
  }
  if (uses_allocation(options) && budgets.allocation > 0) limit_allocation(spec, budgets.allocation * weights, options);
  if (uses_tuning(options) && budgets.tuning > 0) limit_tuning(spec, budgets.tuning * weights, options);
  return options;
}

}  // namespace tq
