// A model's weights, handed to a backend layer by layer. A walker of ModelSpec.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "artifact/model.h"
#include "base/thread_pool.h"
#include "kernels/backend.h"

namespace tq {

// A vector in the backend's memory.
class DeviceVector {
 public:
  DeviceVector() = default;
  static Result<DeviceVector> create(std::span<const float> values, Backend& backend);
  const float* data() const { return memory_.as<float>(); }
  float* data() { return memory_.as<float>(); }
  size_t size() const { return memory_.bytes() / sizeof(float); }
  bool empty() const { return memory_.empty(); }

 private:
  Memory memory_;
};

struct LinearWeight {
  std::unique_ptr<Matrix> matrix;
  DeviceVector bias;  // [R] or empty

  LinearJob job(float* output) const { return {matrix.get(), bias.empty() ? nullptr : bias.data(), output}; }
};

struct BlockWeights {
  DeviceVector pre, post;                          // norms; post may be empty
  DeviceVector query_norm, key_norm;               // may be empty
  std::vector<LinearWeight> linears;               // in the order of linears(block); without experts
  std::vector<std::vector<LinearWeight>> experts;  // [E][gate…, down] of a mixture
};

using LayerWeights = std::vector<BlockWeights>;

struct HeadWeights {
  DeviceVector norm;
  LinearWeight linear;
};

Result<LayerWeights> prepare_layer(const Model& model, int64_t layer, Backend& backend);
Result<HeadWeights> prepare_head(const Model& model, Backend& backend);
Result<LinearWeight> prepare_linear(const Model& model, const Linear& linear, Backend& backend, int64_t expert = 0);

// Whether all that quantization leaves until its end or as it is holds finite numbers alone: embedding, head, norms, biases, routers. Each
// is decoded once. Errors: kBadInput with the first that does not.
Status check_tables(const Model& model, ThreadPool& threads);

// All weights of a model as floats that training may change: norms and biases in place, matrices through Training::weights().
struct TrainableModel {
  std::vector<LayerWeights> layers;
  HeadWeights head;
};
// The backend must have training operations.
Result<TrainableModel> prepare_trainable(const Model& model, Backend& backend);
Result<LayerWeights> prepare_trainable_layer(const Model& model, int64_t layer, Backend& backend);

}  // namespace tq
