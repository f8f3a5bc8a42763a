#include "graph/weights.h"

#include <algorithm>
#include <cmath>

namespace tq {
namespace {

Result<std::vector<float>> read_vector(const Model& model, const std::string& name) {
  const PackedTensor* tensor = model.find(name);
  if (!tensor) return bad_input("{}: tensor {} is missing", model.source, name);
  std::vector<float> out(static_cast<size_t>(element_count(tensor->shape)));
  decode_rows(*tensor, 0, tensor->rows(), out.data());
  if (!std::all_of(out.begin(), out.end(), [](float x) { return std::isfinite(x); }))
    return bad_input("{}: tensor {} holds values that are no finite numbers; fetch or convert the model again", model.source, name);
  return out;
}

Result<DeviceVector> read_device_vector(const Model& model, const std::string& name, Backend& backend) {
  TQ_ASSIGN(const std::vector<float> values, read_vector(model, name));
  return DeviceVector::create(values, backend);
}

Result<BlockWeights> prepare_block(const Model& model, const Block& block, Backend& backend) {
  BlockWeights weights;
  TQ_ASSIGN(weights.pre, read_device_vector(model, block.pre.name + ".weight", backend));
  if (block.post) {
    TQ_ASSIGN(weights.post, read_device_vector(model, block.post->name + ".weight", backend));
  }
  if (const auto* attention = std::get_if<Attention>(&block.op)) {
    if (attention->query_norm) {
      TQ_ASSIGN(weights.query_norm, read_device_vector(model, attention->query_norm->name + ".weight", backend));
    }
    if (attention->key_norm) {
      TQ_ASSIGN(weights.key_norm, read_device_vector(model, attention->key_norm->name + ".weight", backend));
    }
  }
  for (const Linear* linear : linears(block)) {
    if (linear->experts == 0) {
      TQ_ASSIGN(LinearWeight weight, prepare_linear(model, *linear, backend));
      weights.linears.push_back(std::move(weight));
      continue;
    }
    weights.experts.resize(static_cast<size_t>(linear->experts));
    for (int64_t e = 0; e < linear->experts; ++e) {
      TQ_ASSIGN(LinearWeight weight, prepare_linear(model, *linear, backend, e));
      weights.experts[static_cast<size_t>(e)].push_back(std::move(weight));
    }
  }
  return weights;
}

}  // namespace

Result<DeviceVector> DeviceVector::create(std::span<const float> values, Backend& backend) {
  DeviceVector vector;
  TQ_ASSIGN(vector.memory_, backend.allocate(values.size_bytes()));
  backend.upload(vector.memory_.as<float>(), values.data(), values.size_bytes());
  return vector;
}

Result<LinearWeight> prepare_linear(const Model& model, const Linear& linear, Backend& backend, int64_t expert) {
  const PackedTensor* tensor = model.find(linear.name + ".weight");
  if (!tensor) return bad_input("{}: tensor {}.weight is missing", model.source, linear.name);
  LinearWeight weight;
  TQ_ASSIGN(weight.matrix, backend.prepare(*tensor, expert));
  if (linear.bias) {
    TQ_ASSIGN(const std::vector<float> bias, read_vector(model, linear.name + ".bias"));
    const auto own = std::span(bias).subspan(static_cast<size_t>(expert * linear.out), static_cast<size_t>(linear.out));
    TQ_ASSIGN(weight.bias, DeviceVector::create(own, backend));
  }
  return weight;
}

Result<LayerWeights> prepare_layer(const Model& model, int64_t layer, Backend& backend) {
  LayerWeights weights;
  for (const Block& block : model.spec.layers[static_cast<size_t>(layer)]) {
    TQ_ASSIGN(BlockWeights prepared, prepare_block(model, block, backend));
    weights.push_back(std::move(prepared));
  }
  return weights;
}

Result<HeadWeights> prepare_head(const Model& model, Backend& backend) {
  HeadWeights head;
  TQ_ASSIGN(head.norm, read_device_vector(model, model.spec.final_norm.name + ".weight", backend));
  TQ_ASSIGN(head.linear, prepare_linear(model, model.spec.head, backend));
  return head;
}

}  // namespace tq
