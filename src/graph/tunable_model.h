// A model with rounded matrices as floats in a backend's memory, whose vectors are moved in place. A walker of ModelSpec.
#pragma once

#include <memory>

#include "graph/tunable.h"
#include "graph/weights.h"

namespace tq {

class TunableModel {
 public:
  // Prepares tunables.moved(model, theta), so that it begins with what would be stored. tunables: of `model`. model, tunables and backend
  // must outlive it. Errors: those of prepare_trainable.
  static Result<TunableModel> create(const Model& model, const Tunables& tunables, std::span<const float> theta, Backend& backend);

  const TrainableModel& weights() const { return *weights_; }
  // To other coordinates; row scales are not rounded.
  void move(std::span<const float> theta);

 private:
  // A vector, or one expert's part of it, and what in the prepared model it belongs to: a matrix that has these row scales, or a vector.
  struct Place {
    const TunableVector* vector;
    int64_t first, count;  // in the vector
    Matrix* matrix;
    DeviceVector* plain;
  };

  TunableModel(const Tunables& tunables, Backend& backend) : tunables_(&tunables), backend_(&backend) {}
  void find_places(const ModelSpec& spec);
  void add(TunableKind kind, const std::string& owner, int64_t expert, Matrix* matrix, DeviceVector* plain);

  const Tunables* tunables_;
  Backend* backend_;
  std::unique_ptr<TrainableModel> weights_;  // places_ point into it
  std::vector<Place> places_;
  std::vector<float> scale_;   // row scales that the matrices have now, at their coordinates' places
  std::vector<float> values_;  // by coordinate: factors of row scales, or values
  Memory factors_;             // [coordinates]
};

}  // namespace tq
