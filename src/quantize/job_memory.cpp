#include "quantize/job_memory.h"

#include <algorithm>
#include <map>
#include <set>

#include "graph/training_pass.h"
#include "quantize/calibrate_plan.h"
#include "quantize/candidates.h"
#include "quantize/gradients.h"
#include "quantize/reference_divergence.h"
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

constexpr int64_t kLogits = 3;  // arrays of them: plain and capped, their gradient

// Floats that a pass of so many tokens through a layer has beside their hidden states: its workspace, keys and values.
int64_t forward_working(const ModelSpec& spec, int64_t tokens, int64_t sequences, int64_t head_rows) {
  int64_t floats = 0, width = 0;
  for (const int64_t slot : forward_floats(spec, tokens, head_rows)) floats += slot;
  for (const auto& layer : spec.layers) width = std::max(width, 2 * attention_of(layer).kv_heads * attention_of(layer).head_dim);
  return floats + (tokens + sequences * kPageTokens) * width;
}

// Floats of a token on its way back through a layer: what the linears read and write, kept and as gradients.
int64_t backward_working(const ModelSpec& spec) {
  int64_t most = 0;
  for (const auto& layer : spec.layers) {
    int64_t floats = 0;
    for (const Block& block : layer) {
      const auto* mixture = std::get_if<Moe>(&block.op);
      for (const Linear* linear : linears(block))
        floats += 3 * (linear->in + linear->out) * (linear->experts > 0 && mixture ? mixture->experts_per_token : 1);
    }
    most = std::max(most, floats);
  }
  return most;
}

// Those whose outputs have gradients.
std::vector<const Linear*> linears_and_head(const ModelSpec& spec) {
  std::vector<const Linear*> out = linears(spec);
  out.push_back(&spec.head);
  return out;
}

// Floats of the squared gradients at all outputs: of so many tokens, and of the rows.
int64_t gradient_floats(const ModelSpec& spec, int64_t tokens) {
  int64_t floats = 0;
  for (const Linear* linear : linears_and_head(spec)) floats += tokens + std::max<int64_t>(1, linear->experts) * linear->out;
  return floats;
}

// Of one wave of sequences forward and back: hidden states, kept layers, a chunk's logits.
uint64_t wave_memory(const ModelSpec& spec, int64_t wave, int64_t length) {
  const int64_t chunk = std::min(kLogitsChunk, length);
  const int64_t floats = length * backward_working(spec) + forward_working(spec, length, 1, chunk) + kLogits * chunk * spec.vocabulary;
  return static_cast<uint64_t>(wave) * training_bytes(spec, length) + kept_trace_bytes(spec, wave * length) +
         static_cast<uint64_t>(floats) * sizeof(float);
}

// Of one wave, with what a linear gives by the original and by a candidate, and the sums of all rows, which are added up on the host.
uint64_t pricing_memory(const ModelSpec& spec, const AllocationPlan& plan, int64_t length) {
  const int64_t wave = std::min(sequences_per_wave(spec, length), static_cast<int64_t>(plan.priced));
  int64_t widest = 0, rows = 0;
  for (const Linear* linear : linears(spec)) {
    widest = std::max(widest, linear->out);
    rows += std::max<int64_t>(1, linear->experts) * linear->out;
  }
  const int64_t floats = length * (2 * widest + 2) + 2 * static_cast<int64_t>(1 + plan.rates.size()) * rows;
  return wave_memory(spec, wave, length) + static_cast<uint64_t>(floats) * sizeof(float);
}

// Gradients of so many tokens, whose vectors grow wave by wave.
uint64_t kept_gradient_bytes(const ModelSpec& spec, int64_t tokens) {
  return 2 * static_cast<uint64_t>(gradient_floats(spec, tokens)) * sizeof(float);
}

// Weights of so many tokens at every tap point.
uint64_t token_weight_bytes(const ModelSpec& spec, int64_t tokens) {
  std::set<std::string> taps;
  for (const Linear* linear : linears_and_head(spec)) taps.insert(linear->tap);
  return taps.size() * static_cast<uint64_t>(tokens) * sizeof(float);
}

// Of measurements on so many sequences; hidden states are kept before `starts` layers, where models begin to differ.
uint64_t trials_memory(const ModelSpec& spec, const AllocationPlan& plan, int64_t length, int64_t sequences, size_t starts) {
  const int64_t together = std::clamp<int64_t>(kTogetherTokens / length, 1, sequences);
  const int64_t logits = std::min(kLogitsChunk, (sequences * length + plan.stride - 1) / plan.stride);
  const auto states = static_cast<uint64_t>(sequences * length * spec.hidden) * sizeof(float);
  const int64_t floats = forward_working(spec, together * length, together, logits) + logits * (spec.hidden + 1 + 2 * spec.vocabulary);
  // The original's, those that are kept, and, while these are made, the embedded ones and those on their way.
  return (3 + starts) * states + static_cast<uint64_t>(floats) * sizeof(float);
}

// Weights that the choice of bits has in memory beside its hidden states: a layer rounded at all rates and the one before it, which is
// being written; or what is decoded of a layer, of the standing model, of the original and at all rates, or of a head.
uint64_t allocation_weights(const ModelSpec& spec, const QuantizePlan& plan, const AllocationPlan& own, int threads) {
  const uint64_t decoded = decoded_layer_bytes(plan);
  const bool is_decoded = decoded <= kLargestDecodedLayer;
  const uint64_t head = static_cast<uint64_t>(spec.head.in * spec.head.out) * sizeof(float);
  uint64_t most = is_decoded ? std::max((own.rates.size() + 2) * decoded, head) : 0;
  for (const auto& layer : plan.layers) {
    const std::vector<TensorPlan> tensors = candidate_tensors(layer, own.rates);
    const StepMemory memory = step_memory(tensors, threads);
    uint64_t rounded = 0;
    for (const TensorPlan& tensor : tensors) rounded += static_cast<uint64_t>(element_count(arrays_of(tensor)[0].shape));
    most = std::max(most, (is_decoded ? decoded : 0) + memory.objectives + working_memory(memory, 1, threads) + 2 * rounded);
  }
  return most;
}

// All that the choice of bits takes at once; 0 without one.
uint64_t choosing_memory(const ModelSpec& spec, const QuantizePlan& plan, int threads) {
  if (!uses_allocation(plan.options)) return 0;
  const int64_t length = std::min(plan.options.sequence, spec.context);
  const AllocationPlan own = allocation_plan(spec, plan.options, static_cast<size_t>(calibration_tokens(plan.options) / length));
  return allocation_memory(spec, own, length) + allocation_weights(spec, plan, own, threads);
}

// All that weighing tokens by gradients takes at once: the passes, with a layer or the head as floats; or what becomes weights: beside the
// gradients sums of the measured tokens, as doubles and as floats whose vectors grow, and the weights of all. 0 without gradients.
uint64_t weighing_memory(const ModelSpec& spec, const QuantizePlan& plan) {
  if (!uses_gradients(plan.options)) return 0;
  const int64_t length = std::min(plan.options.sequence, spec.context), tokens = calibration_tokens(plan.options);
  const int64_t measured = plan.options.gradient_tokens > 0 ? std::min(plan.options.gradient_tokens, tokens) : tokens;
  const uint64_t layer = decoded_layer_bytes(plan), head = static_cast<uint64_t>(spec.head.in * spec.head.out) * sizeof(float);
  const uint64_t decoded = layer <= kLargestDecodedLayer ? std::max(layer, head) : 0;
  const uint64_t passes = gradients_memory(spec, std::max<int64_t>(1, measured / length), length) + decoded;
  const uint64_t sums = kept_gradient_bytes(spec, measured) + 4 * token_weight_bytes(spec, measured) + token_weight_bytes(spec, tokens);
  return std::max(passes, sums);
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

uint64_t allocation_memory(const ModelSpec& spec, const AllocationPlan& plan, int64_t length) {
  const auto layers = static_cast<size_t>(spec.layers_count());
  const auto stream =
      static_cast<uint64_t>(static_cast<int64_t>(plan.candidates) * length * spec.hidden + forward_working(spec, length, 1, length)) *
      sizeof(float);
  const int64_t own = plan.length > 0 ? plan.length : length;
  const uint64_t guard = trials_memory(spec, plan, own, static_cast<int64_t>(plan.held_out), std::min(layers + 1, kMeasuredAllocations));
  return std::max({stream, pricing_memory(spec, plan, own), guard});
}

uint64_t gradients_memory(const ModelSpec& spec, int64_t sequences, int64_t length) {
  const int64_t wave = std::min(sequences_per_wave(spec, length), sequences);
  // Squared gradients of all outputs are copied twice when they are brought to the host.
  const auto squares = 3 * static_cast<uint64_t>(gradient_floats(spec, wave * length)) * sizeof(float);
  return wave_memory(spec, wave, length) + squares + kept_gradient_bytes(spec, sequences * length);
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
  const uint64_t rounding = hidden + trained + std::max(largest, tables.objectives + working_memory(tables, 1, threads));
  const uint64_t weights = uses_gradients(plan.options) ? token_weight_bytes(model.spec, calibration_tokens(plan.options)) : 0;
  const uint64_t measured =
      std::max(weighing_memory(model.spec, plan), weights + std::max(rounding, choosing_memory(model.spec, plan, threads)));
  if (!uses_tuning(plan.options)) return program + measured;
  return program + std::max(measured, tuning_memory(model.spec, tune_settings(plan.options, model.spec.context)));
}

}  // namespace tq
