#include "quantize/job_memory.h"

#include <algorithm>
#include <map>

#include "graph/training_pass.h"
#include "quantize/calibrate_plan.h"
#include "quantize/gradients.h"
#include "quantize/tune.h"

namespace tq {
namespace {

// Memory that the layers which are rounded together may take: more threads need more of them to have work.
uint64_t wave_budget(int threads) { return std::max<uint64_t>(1536, uint64_t{512} * static_cast<uint64_t>(threads)) << 20; }

struct StepMemory {
  uint64_t objectives = 0;        // of all tap points
  std::vector<uint64_t> working;  // of each matrix while it is rounded, the largest first
};

StepMemory step_memory(const std::vector<TensorPlan>& tensors, int threads) {
  StepMemory memory;
  std::map<std::string, uint64_t> taps;
  for (const TensorPlan& tensor : tensors) {
    const auto columns = static_cast<uint64_t>(tensor.linear.in), experts = static_cast<uint64_t>(tensor.linear.experts);
    // The moment of every expert, and moment and factor of those in work.
    taps[tensor.linear.tap] = (experts > 0 ? experts + 2 + static_cast<uint64_t>(threads) : 2) * columns * columns * 4;
    memory.working.push_back(static_cast<uint64_t>(tensor.linear.out) * (columns * 8 + 1024));
  }
  for (const auto& [name, bytes] : taps) memory.objectives += bytes;
  std::sort(memory.working.rbegin(), memory.working.rend());
  return memory;
}

// The sum of the largest `threads` working sets of `layers` equal layers.
uint64_t working_memory(const StepMemory& memory, size_t layers, int threads) {
  uint64_t total = 0;
  for (size_t i = 0; i < std::min(memory.working.size() * layers, static_cast<size_t>(threads)); ++i) total += memory.working[i / layers];
  return total;
}

// Sums, factors and candidates of the largest stage (quantize/compensation.h): three of [C, C] and six of [R, C].
uint64_t compensation_bytes(const std::vector<TensorPlan>& layer) {
  uint64_t most = 0;
  for (const TensorPlan& tensor : layer) {
    const auto columns = static_cast<uint64_t>(tensor.linear.in), rows = static_cast<uint64_t>(tensor.linear.out);
    most = std::max(most, (3 * columns + 6 * std::max(rows, columns)) * columns * sizeof(float));
  }
  return most;
}

}  // namespace

uint64_t decoded_layer_bytes(const QuantizePlan& plan) {
  uint64_t largest = 0;
  for (const auto& layer : plan.layers) {
    uint64_t bytes = 0;
    for (const TensorPlan& tensor : layer)
      bytes += static_cast<uint64_t>(std::max<int64_t>(1, tensor.linear.experts) * tensor.linear.in * tensor.linear.out) * 4;
    largest = std::max(largest, bytes);
  }
  return largest;
}

size_t layers_in_memory(const QuantizePlan& plan, int threads) {
  size_t best = 1;
  for (size_t layers = 2; layers <= plan.layers.size(); ++layers) {
    for (const auto& layer : plan.layers) {
      const StepMemory memory = step_memory(layer, threads);
      if (layers * memory.objectives + working_memory(memory, layers, threads) > wave_budget(threads)) return best;
    }
    best = layers;
  }
  return best;
}

size_t layers_per_wave(const QuantizePlan& plan, int threads) {
  return std::min(static_cast<size_t>(std::max(2, threads)), layers_in_memory(plan, threads));
}

uint64_t planned_memory(const Model& model, const QuantizePlan& plan, int threads) {
  constexpr uint64_t kOfThread = 6 << 20;                                            // operands of products, packed
  const uint64_t program = (64 << 20) + kOfThread * static_cast<uint64_t>(threads);  // code, tokenizer, texts, trellises
  const auto tokens = static_cast<uint64_t>(calibration_tokens(plan.options)), width = static_cast<uint64_t>(model.spec.hidden);
  const auto sequence = static_cast<uint64_t>(std::min(plan.options.sequence, model.spec.context));
  // With calibration both streams, and of the original what its blocks read and give; weights, their best state, gradients and moments of a
  // layer, beside it once more as it was.
  const bool is_calibrated = rounds_in_sequence(plan.options);
  const bool compensates = calibration_budget(plan.options, count_weights(model.spec).linears).compensates;
  const uint64_t streams = compensates ? 5 : is_calibrated ? 2 : 1;
  const uint64_t hidden = tokens * width * 4 * streams;
  const uint64_t trained = is_calibrated ? 6 * decoded_layer_bytes(plan) : 0;
  const uint64_t decoded = decoded_layer_bytes(plan);
  const size_t wave = layers_per_wave(plan, threads);
  uint64_t largest = 0;
  for (const auto& layer : plan.layers) {
    const StepMemory memory = step_memory(layer, threads);
    uint64_t activations = 0;  // of one sequence: inputs and outputs of every linear, and the BLAS library's copies
    for (const TensorPlan& tensor : layer) activations += sequence * static_cast<uint64_t>(tensor.linear.in + tensor.linear.out) * 4;
    const uint64_t stream = (decoded <= kLargestDecodedLayer ? decoded : 0) + activations + wave * memory.objectives / 2;
    largest = std::max(largest, stream);
    largest = std::max(largest, wave * memory.objectives + working_memory(memory, wave, threads));
    if (compensates) largest = std::max(largest, stream + compensation_bytes(layer));
  }
  const StepMemory tables = step_memory(plan.tables, threads);
  const uint64_t traces =
      uses_gradients(plan.options)
          ? kept_trace_bytes(model.spec, static_cast<int64_t>(sequence) * sequences_per_wave(model.spec, static_cast<int64_t>(sequence)))
          : 0;
  largest = std::max(largest, traces);
  const uint64_t rounding = hidden + trained + std::max(largest, tables.objectives + working_memory(tables, 1, threads));
  if (!uses_tuning(plan.options)) return program + rounding;
  return program + std::max(rounding, tuning_memory(model.spec, tune_settings(plan.options, model.spec.context)));
}

}  // namespace tq
