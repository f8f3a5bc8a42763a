// One matrix rounded by the method that its plan says, under its input's objective.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "quantize/round.h"
#include "quantize/rounding_inputs.h"

namespace tq {

// Knows the model's weights and what AWQ's folds do to them.
class MatrixRounder {
 public:
  // All of them are to outlive the object.
  MatrixRounder(const Model& model, const QuantizePlan& plan, const std::vector<PendingStep>& steps, const RoundingInputs& inputs, Isa isa)
      : model_(model), plan_(plan), steps_(steps), inputs_(inputs), isa_(isa) {}

  // The rows of the input's expert, or of the whole tensor. threads: null, the caller's alone.
  Rounded round(const TensorPlan& tensor, const RoundingInput& input, ThreadPool* threads) const;
  // For the grid, which a device may round too.
  RoundRequest grid_request(const TensorPlan& tensor, const RoundingInput& input, ThreadPool* threads) const;
  // Norms and biases of a step that take the scales of the inputs they lead to, by name.
  std::map<std::string, std::vector<float>> changed_vectors(size_t step) const;

 private:
  // What rows of a linear, from `first` on, are divided by.
  struct Divisors {
    std::span<const float> values;
    int64_t first = 0;

    float of(int64_t row) const {
      const int64_t at = row - first;
      return at >= 0 && at < static_cast<int64_t>(values.size()) ? values[static_cast<size_t>(at)] : 1.0f;
    }
  };
  Divisors divisors(size_t step, const std::string& name) const;
  RowSource rows_of(const TensorPlan& tensor, const RoundingInput& input) const;
  RowSource scaled_rows(const TensorPlan& tensor, const RoundingInput& input) const;
  Rounded to_e8p(const TensorPlan& tensor, const RoundingInput& input, ThreadPool* threads) const;
  Rounded to_scalar(const TensorPlan& tensor, const RoundingInput& input, ThreadPool* threads) const;

  const Model& model_;
  const QuantizePlan& plan_;
  const std::vector<PendingStep>& steps_;
  const RoundingInputs& inputs_;
  Isa isa_;
};

}  // namespace tq
