#include "quantize/rounded_model.h"

#include "quantize/rounded_layer.h"

namespace tq {

Result<Model> rounded_model(const Model& source, const QuantizePlan& plan, const StepArchives& archives) {
  // What the tensors point into.
  struct Shared {
    StepArchives archives;
    grid::TapsByRate taps;
  };
  const auto shared = std::make_shared<Shared>(archives, plan.taps);
  StepArrays arrays;
  for (const auto& archive : archives)
    for (const auto& tensor : archive->tensors()) arrays.emplace(tensor.name, tensor.view);
  std::vector<TensorPlan> tensors;
  for (const TensorPlan* tensor : plan.tensors()) tensors.push_back(*tensor);
  return with_rounded(source, tensors, shared->taps, arrays, shared);
}

}  // namespace tq
