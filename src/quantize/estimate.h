// How long a quantization will take here: the operations of the plan, by speeds that are measured for a moment.
#pragma once

#include "base/context.h"
#include "kernels/backend.h"
#include "quantize/plan.h"

namespace tq {

struct TimeEstimate {
  double gradients = 0, allocation = 0, statistics = 0, rounding = 0, calibration = 0, tuning = 0;  // seconds
  double all() const { return gradients + allocation + statistics + rounding + calibration + tuning; }
};

// By speeds of this processor, even where a card does the work: card_time is for those. Takes about half a second; reads a few rows of the
// source.
TimeEstimate estimate_time(const Model& model, const QuantizePlan& plan, Backend& backend, const Context& context);

// On a card like an H200 with six processors beside it: operations by the speeds that Qwen2.5-Coder-0.5B was measured with at effort best
// and 3 bits (bench/README.md). Larger models use a card better, so it is rather too long for them.
TimeEstimate card_time(const Model& model, const QuantizePlan& plan);

}  // namespace tq
