// What of a layer is still continuous, and Adam on it: whole linears that are not rounded yet, the row scales of those that are, norms and
// biases. Everything is in the backend's memory; a step waits for nothing.
#pragma once

#include <map>
#include <vector>

#include "graph/backward.h"

namespace tq {

// Adam's steps, relative to the root mean square of what is trained.
struct TrainingRates {
  double weight = 0;  // of linears that are not rounded; 0: they are left alone
  double vector = 0;  // of row scales, norms and biases
};

class LayerTrainer {
 public:
  // weights: of the layer, trainable (Training::prepare_trainable); they must outlive it, as must the spec. Errors: kNoResource.
  struct Settings {
    const ModelSpec& spec;
    int64_t layer = 0;
    TrainingRates rates;
  };
  static Result<LayerTrainer> create(const Settings& settings, LayerWeights& weights, Backend& backend);
  LayerTrainer(LayerTrainer&&) = default;

  // Linear i, in the order of the layer's blocks, is rounded: its matrix is replaced, and from now on its row scales alone are trained.
  void fix(size_t i, std::unique_ptr<Matrix> rounded);
  // Whether a linear has been.
  bool is_started() const;

  // sum W^T W of linears with the same inputs, [C, C], in the backend's memory. Errors: kNoResource.
  Result<Memory> gram(const std::vector<size_t>& linears) const;
  // W += change, [R, C], of a linear that is not rounded; W += W change, [C, C]. scratch: [R, C].
  void add(size_t i, const float* change);
  void add_product(size_t i, const float* change, float* scratch);

  // Forgets Adam's moments and keeps the present values as the best.
  void begin();
  // Sum up gradients; valid as long as the trainer stands where it is.
  GradientSinks sinks();
  // One step of Adam with what was summed since the last; factor: of the rates.
  void step(double factor);
  // The present values are the best; goes back to the best.
  void keep();
  void restore();

  // What the rows of a rounded linear have been multiplied by, [R].
  std::vector<float> row_factors(size_t i) const;
  // [R, C] of a linear that is not rounded; and where it is in the backend's memory, until it is fixed.
  Buffer<float> weights_of(size_t i) const;
  const float* values_of(size_t i) const;
  // Norms and biases by the names of their tensors.
  std::map<std::string, std::vector<float>> vectors() const;

 private:
  // A part of the layer that is trained, and where its gradient and moments are in the regions.
  struct Parameter {
    float* value = nullptr;
    int64_t at = 0, count = 0;
    double rate = 0;
  };
  struct OwnLinear {
    const Linear* linear = nullptr;
    LinearWeight* weight = nullptr;
    bool is_fixed = false;
    Parameter matrix = {}, bias = {};  // matrix: once it is fixed, the factors of its rows
    Memory factor = {};                // [R] of the rows since it was fixed
  };
  struct OwnVector {
    std::string name;
    Parameter parameter;
  };

  LayerTrainer(const Settings& settings, LayerWeights& weights, Backend& backend);
  void add_block(const Block& block, BlockWeights& weights);
  void add_vector(const std::string& name, DeviceVector& values, double offset);
  Status allocate();
  int64_t reserve(int64_t count);
  double root_mean_square(const float* values, int64_t count, double offset) const;
  void collect(const LinearGradient& gradient);
  void update(const Parameter& parameter, float* value, double factor);
  void scale(OwnLinear& own, const float* factor);
  void copy_best(bool to_best);

  Settings settings_;
  Backend* backend_;
  std::vector<OwnLinear> linears_;
  std::vector<OwnVector> norms_;
  std::map<const Linear*, size_t> linear_index_;
  std::map<std::string, size_t> norm_index_;
  int64_t floats_ = 0, longest_ = 0, steps_ = 0;
  Memory gradient_, first_, second_, best_;  // [floats_]
  Memory ones_, change_;                     // [longest_] rows: ones, and the factors of one step
};

}  // namespace tq
