// Block-wise calibration of one layer: its linears rounded stage by stage, and after each stage what is still continuous tuned towards the
// original layer's output on the original stream (QuIP#, Tseng et al. 2024, section 5, has the idea of tuning what is not yet rounded).
#pragma once

#include "quantize/calibrate_passes.h"
#include "quantize/round_steps.h"

namespace tq {

struct CalibratedLayer {
  RoundedStep rounded;  // the layer's plan; `changed` has its norms and biases
  CalibrationFacts facts;
};

// The layer of passes.begin(). Makes its targets; leaves the quantized stream before it. rounding: the backend that rounds.
// Errors: those of rounding; a gradient that is no finite number, by the linear's name; kNoResource; kInterrupted.
Result<CalibratedLayer> calibrate_layer(CalibrationPasses& passes, const CalibrationBudget& budget, Backend& rounding);

}  // namespace tq
