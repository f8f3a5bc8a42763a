#include "quantize/calibrate_plan.h"

#include <algorithm>
#include <map>

namespace tq {
namespace {

constexpr size_t kHeldOutShare = 8;

size_t stage_of(Role role) {
  switch (role) {
    case Role::kQuery:
    case Role::kKey:
    case Role::kFusedQkv: return 0;
    case Role::kValue: return 1;
    case Role::kOutput: return 2;
    case Role::kGate:
    case Role::kUp:
    case Role::kFusedGateUp: return 3;
    default: return 4;
  }
}

}  // namespace

std::vector<CalibrationStage> calibration_stages(const std::vector<Block>& layer) {
  std::map<std::pair<size_t, size_t>, CalibrationStage> stages;  // by block and place in it
  size_t next = 0;
  for (size_t b = 0; b < layer.size(); ++b)
    for (const Linear* linear : linears(layer[b])) {
      CalibrationStage& stage = stages[{b, stage_of(linear->role)}];
      stage.block = b;
      stage.tensors.push_back(next++);
    }
  std::vector<CalibrationStage> out;
  for (const auto& [place, stage] : stages) out.push_back(stage);
  return out;
}

bool can_calibrate(const std::vector<Block>& layer) {
  return std::none_of(layer.begin(), layer.end(), [](const Block& block) { return std::holds_alternative<Moe>(block.op); });
}

CalibrationSplit split_sequences(const std::vector<int>& text) {
  std::map<int, std::vector<int64_t>> by_text;
  for (size_t i = 0; i < text.size(); ++i) by_text[text[i]].push_back(static_cast<int64_t>(i));
  std::vector<bool> is_held_out(text.size());
  for (const auto& [name, sequences] : by_text) {
    if (sequences.size() < 2) continue;
    const size_t count = std::max<size_t>(1, sequences.size() / kHeldOutShare);
    for (size_t i = 0; i < count; ++i) is_held_out[static_cast<size_t>(sequences[(2 * i + 1) * sequences.size() / (2 * count)])] = true;
  }
  CalibrationSplit split;
  for (size_t i = 0; i < text.size(); ++i) (is_held_out[i] ? split.held_out : split.training).push_back(static_cast<int64_t>(i));
  if (split.held_out.empty()) split.held_out = split.training;
  return split;
}

CalibrationBudget calibration_budget(const QuantizeOptions& options, int64_t weights) {
  constexpr CalibrationBudget kBudgets[3] = {
      {16, 1, 3e-3, 1e-3, 2, 256, 256}, {64, 4, 3e-3, 1e-3, 3, 0, 512}, {160, 4, 1e-3, 1e-3, 3, 0, 0}};
  constexpr double kLowBits = 2.5, kLowBitsRate = 2e-3;  // where much is lost, more has to move
  CalibrationBudget budget = kBudgets[static_cast<size_t>(options.effort)];
  if (!uses_calibration(options)) budget.steps = 0;
  if (options.bits < kLowBits) budget.weight_rate = std::max(budget.weight_rate, kLowBitsRate);
  if (options.calibrate_steps > 0 && budget.steps > 0) budget.steps = options.calibrate_steps;
  if (options.calibrate_sequences > 0) budget.sequences = options.calibrate_sequences;
  if (options.calibrate_tokens > 0) budget.tokens = options.calibrate_tokens;
  if (options.calibrate_weight_rate >= 0) budget.weight_rate = options.calibrate_weight_rate;
  if (options.calibrate_vector_rate >= 0) budget.vector_rate = options.calibrate_vector_rate;
  if (weights >= kVectorsOnlyWeights && options.bits >= 3 && options.calibrate_weight_rate < 0) budget.weight_rate = 0;
  budget.compensates = options.method == Method::kTurboquant && budget.steps > 0 && budget.weight_rate > 0;
  return budget;
}

double held_out_sequences(double sequences, size_t texts) {
  const auto count = static_cast<double>(texts);
  const double of_text = sequences / count;
  if (of_text < 2) return std::max(1.0, sequences / 2);
  return count * std::max(1.0, of_text / static_cast<double>(kHeldOutShare));
}

namespace {

// Weights before each tap point of a layer, in order, and of all of it.
struct LayerWeightsBefore {
  std::map<std::string, double> tap;
  double all = 0, last = 0;  // last: before the last tap point

  explicit LayerWeightsBefore(const std::vector<Block>& layer) {
    for (const Block& block : layer)
      for (const Linear* linear : linears(block)) {
        if (tap.emplace(linear->tap, all).second) last = all;
        all += static_cast<double>(std::max<int64_t>(1, linear->experts) * linear->in) * static_cast<double>(linear->out);
      }
  }
};

// What is made up for in closed form: misfits of all tokens, for what adds to the hidden state its own product besides, and four solutions.
double compensation_operations(const std::vector<const Linear*>& linears, const std::vector<CalibrationStage>& stages, double tokens) {
  double sum = 0;
  for (size_t i = 1; i < stages.size(); ++i) {
    const Linear& first = *linears[stages[i].tensors[0]];
    const bool is_output = first.role == Role::kOutput || first.role == Role::kDown;
    const auto columns = static_cast<double>(first.in), rows = static_cast<double>(is_output ? first.out : first.in);
    sum += tokens * rows * columns * (is_output ? 2 : 1);
    sum += 4 * columns * columns * (columns / 6 + 2 * rows);
  }
  return sum;
}

}  // namespace

CalibrationOperations calibration_operations(const ModelSpec& spec, const CalibrationBudget& budget, const CalibrationSize& size) {
  const auto [tokens, length, texts] = size;
  CalibrationOperations out;
  const double learned = budget.tokens > 0 ? std::min(length, static_cast<double>(budget.tokens)) : length;
  const double trained = static_cast<double>(budget.steps * budget.sequences) * learned;
  const double judged = budget.judged_tokens > 0 ? std::min(length, static_cast<double>(budget.judged_tokens)) : length;
  for (const auto& layer : spec.layers) {
    const LayerWeightsBefore weights(layer);
    out.passes += tokens * (2 * weights.all + weights.last);  // targets, the quantized stream; statistics of the plain layer
    if (!can_calibrate(layer)) continue;
    const std::vector<CalibrationStage> stages = calibration_stages(layer);
    std::vector<const Linear*> all;
    for (const Block& block : layer)
      for (const Linear* linear : linears(block)) all.push_back(linear);
    for (size_t i = 1; i < stages.size(); ++i) out.passes += tokens * weights.tap.at(all[stages[i].tensors[0]]->tap);
    const auto checks = static_cast<double>(static_cast<int64_t>(stages.size()) * (1 + budget.checks) + 2);
    out.passes += checks * held_out_sequences(tokens / length, texts) * judged * weights.all;
    if (budget.compensates) out.passes += compensation_operations(all, stages, tokens);
    // Forward, the gradients of the inputs, and those of the weights that are left: half of them on average.
    out.steps += static_cast<double>(stages.size()) * trained * weights.all * (budget.weight_rate > 0 ? 2.5 : 2.0);
  }
  return out;
}

std::vector<std::string> calibrated_vectors(const ModelSpec& spec) {
  std::vector<std::string> names;
  for (const auto& layer : spec.layers) {
    if (!can_calibrate(layer)) continue;
    for (const Block& block : layer) {
      names.push_back(block.pre.name + ".weight");
      if (block.post) names.push_back(block.post->name + ".weight");
      if (const auto* attention = std::get_if<Attention>(&block.op))
        for (const auto& norm : {attention->query_norm, attention->key_norm})
          if (norm) names.push_back(norm->name + ".weight");
      for (const Linear* linear : linears(block))
        if (linear->bias) names.push_back(linear->name + ".bias");
    }
  }
  return names;
}

}  // namespace tq
