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

// Takes about half a second; reads a few rows of the source.
TimeEstimate estimate_time(const Model& model, const QuantizePlan& plan, Backend& backend, const Context& context);

}  // namespace tq
