// How many operations each stage of the method may take, from which its tokens and steps follow.
#pragma once

#include "kernels/backend.h"
#include "model/spec.h"
#include "quantize/calibrate_plan.h"
#include "quantize/options.h"

namespace tq {

// What the training's products run on, which may take more operations the faster it is.
// kBfloat16: a processor that multiplies it in vectors (Zen 4), kWideBfloat16: in units as wide as these (Zen 5); kTiles: one with AMX.
enum class Trainer : uint8_t { kProcessor, kBfloat16, kWideBfloat16, kTiles, kDevice };
Trainer trainer_of(const Backend& training);

// Multiply-adds a weight of the linears and the head. 0: as many as the effort's own tokens and steps take.
struct StageBudgets {
  double gradients = 0, allocation = 0, calibration = 0, tuning = 0;
};
StageBudgets stage_budgets(Effort effort, Trainer trainer);

// Multiply-adds of a stage at these options; 0 for a stage that they don't have. Attention and rounding are not counted.
struct StageOperations {
  double gradients = 0, allocation = 0, calibration = 0, tuning = 0;
  CalibrationOperations of_calibration;  // what `calibration` is made of
};
StageOperations stage_operations(const ModelSpec& spec, const QuantizeOptions& options);

// Allocation, calibration and tuning where they are not given: on at effort best, and at normal where a device trains. On a
// processor they take many times as long as rounding. Rivals have none.
QuantizeOptions with_usual_stages(QuantizeOptions options, Trainer trainer);

// The options with what each stage may use: never more than the effort's own settings, never less than a stage needs to work at all; and
// with longer windows where there is time for them beside calibration. What is given already stays.
QuantizeOptions with_stage_budgets(const ModelSpec& spec, QuantizeOptions options, Trainer trainer);

}  // namespace tq
