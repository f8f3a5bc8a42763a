// A rounded layer seen as a part of a model: what the rest of the quantization runs through it with.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "quantize/round_steps.h"

namespace tq {

// Arrays of a step by their names in the artifact.
using StepArrays = std::map<std::string, TensorView>;
// Views of the arrays of `rounded`, the linears `tensors`, which must outlive them.
StepArrays arrays_of(const std::vector<TensorPlan>& tensors, const RoundedStep& rounded);
StepArrays arrays_of(const safetensors::Archive& step);

// The model with the linears `tensors` as the arrays have them, in the code of their methods, and with the plain vectors that are among the
// arrays. owner keeps the arrays; the taps must outlive the result. Errors: kBadInput for an array that is missing or has another size.
Result<Model> with_rounded(const Model& model, const std::vector<TensorPlan>& tensors, const grid::TapsByRate& taps,
                           const StepArrays& arrays, std::shared_ptr<const void> owner);

}  // namespace tq
