// What block-wise calibration will do: the stages of a layer, the sequences it trains on and those it judges by, its budget.
#pragma once

#include <cstdint>
#include <vector>

#include "model/spec.h"
#include "quantize/plan.h"

namespace tq {

// Linears that are rounded together, as places in the plan of their layer; in the order q, k | v | o | gate, up | down. A fused matrix
// takes the place of the first of its parts.
struct CalibrationStage {
  std::vector<size_t> tensors;
  size_t block = 0;  // of the layer that they belong to
};
std::vector<CalibrationStage> calibration_stages(const std::vector<Block>& layer);
// Layers with a mixture are rounded without calibration.
bool can_calibrate(const std::vector<Block>& layer);

// Of the sequences of every text one in eight, one at least, is only judged by; of a text with one sequence none. text: of each sequence.
struct CalibrationSplit {
  std::vector<int64_t> training, held_out;
};
CalibrationSplit split_sequences(const std::vector<int>& text);

struct CalibrationBudget {
  int64_t steps = 0;                        // of Adam after each stage; 0: the layer is rounded in sequence, and nothing is tuned
  int64_t sequences = 0;                    // a step
  double weight_rate = 0, vector_rate = 0;  // TrainingRates
  int64_t checks = 0;                       // of the held-out errors in a stage, beside that before it
  int64_t tokens = 0;                       // at the front of every sequence of a step; 0: all
  int64_t judged_tokens = 0;                // at the front of every held-out sequence; 0: all
  bool compensates = false;                 // what was lost before a stage is made up for in closed form (quantize/compensation.h)
};
// weights of the model's linears from this number on, at 3 bits and more, are only rounded: their vectors alone are trained.
constexpr int64_t kVectorsOnlyWeights = 30'000'000'000;
CalibrationBudget calibration_budget(const QuantizeOptions& options, int64_t weights);

// Multiply-adds of the calibration: what its steps take, and what else runs through the layers (targets, statistics, held-out errors).
struct CalibrationOperations {
  double steps = 0, passes = 0;
  double all() const { return steps + passes; }
};
struct CalibrationSize {
  double tokens = 0, length = 0;  // of all sequences; of each
  size_t texts = 1;               // that they come from
};
CalibrationOperations calibration_operations(const ModelSpec& spec, const CalibrationBudget& budget, const CalibrationSize& size);
// How many sequences of so many will be held out (split_sequences), if every text has as many of them.
double held_out_sequences(double sequences, size_t texts);

// Held-out errors at a layer's output: rounded without calibration, and with it. 0: not calibrated.
struct CalibrationFacts {
  double plain = 0, calibrated = 0;
  bool is_kept = false;  // the calibrated form: it is better, and on no text worse by more than 2 %
  int attempts = 1;      // of which the last is told of
};

// Norms and biases of the layers that are calibrated: the plain arrays that change.
std::vector<std::string> calibrated_vectors(const ModelSpec& spec);

}  // namespace tq
