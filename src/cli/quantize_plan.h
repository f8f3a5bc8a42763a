// What `tq quantize` says before it works, and all that `--dry-run` prints.
#pragma once

#include "cli/quantize_flags.h"
#include "quantize/plan.h"

namespace tq::cli {

void print_plan(const Model& model, const QuantizePlan& plan, const QuantizeFlags& flags, Session& session);

// That the result may be no smaller than what it is made from.
void warn_of_size(const Model& model, const QuantizePlan& plan, Listener& listener);

// Mean bits of each kind of linear.
std::string rates_text(const std::vector<std::vector<TensorPlan>>& layers);

}  // namespace tq::cli
