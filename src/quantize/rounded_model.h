// The model that the steps of a job have made so far.
#pragma once

#include "quantize/plan.h"

namespace tq {

// The source with every planned tensor in its rounded form, and with the plain tensors that the steps changed. Methods turboquant and quip.
// Errors: those of with_rounded.
using StepArchives = std::vector<std::shared_ptr<const safetensors::Archive>>;
Result<Model> rounded_model(const Model& source, const QuantizePlan& plan, const StepArchives& archives);

}  // namespace tq
