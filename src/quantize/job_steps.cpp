#include "quantize/job_steps.h"

#include <algorithm>

#include "quantize/allocation_plan.h"
#include "quantize/allocation_record.h"
#include "quantize/assemble.h"
#include "quantize/candidates.h"

namespace tq {
namespace {

uint64_t rounded_bytes(const std::vector<TensorPlan>& tensors) {
  uint64_t bytes = 0;
  for (const TensorPlan& tensor : tensors)
    for (const safetensors::TensorInfo& array : arrays_of(tensor))
      bytes += static_cast<uint64_t>(element_count(array.shape)) * dtype_size(array.dtype);
  return bytes;
}

}  // namespace

std::string layer_step(int64_t layer) { return fmt::format("layer-{:05}", layer); }

uint64_t missing_bytes(const Model& model, const QuantizePlan& plan, const JobFolder& folder) {
  const uint64_t artifact = planned_bytes(model, plan);
  uint64_t bytes = artifact - std::min(artifact, folder.bytes_beside_steps());
  for (size_t i = 0; i < plan.layers.size(); ++i)
    if (!folder.has_step(layer_step(static_cast<int64_t>(i)))) bytes += rounded_bytes(plan.layers[i]);
  if (!folder.has_step(kTablesStep)) bytes += rounded_bytes(plan.tables);
  if (!uses_allocation(plan.options) || has_allocation(folder)) return bytes;
  const AllocationPlan own = allocation_plan(model.spec, plan.options, 1);  // the rates are those of any number of sequences
  for (size_t i = 0; i < plan.layers.size(); ++i)
    if (!folder.has_step(candidates_step(i))) bytes += rounded_bytes(candidate_tensors(plan.layers[i], own.rates));
  return bytes;
}

}  // namespace tq
