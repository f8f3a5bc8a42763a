// What `tq quantize --dry-run` prints.
#pragma once

#include "cli/quantize_flags.h"
#include "quantize/plan.h"

namespace tq::cli {

void print_plan(const Model& model, const QuantizePlan& plan, const QuantizeFlags& flags, Session& session);

// Mean bits of each kind of linear.
std::string rates_text(const std::vector<std::vector<TensorPlan>>& layers);

}  // namespace tq::cli
