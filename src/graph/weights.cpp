#include "graph/weights.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <set>

#include "codec/elements.h"
#include "kernels/training.h"

namespace tq {
namespace {

// Rows on the threads, if the codec can decode them alone.
bool is_finite(const PackedTensor& tensor, ThreadPool& threads) {
  constexpr int64_t kBandElements = 1 << 16;
  const int64_t rows = tensor.rows(), columns = tensor.columns();
  const bool is_whole = codec_of(tensor.codec).info().is_whole;
  std::atomic<bool> is_sound = true;
  threads.run(rows, std::max<int64_t>(1, is_whole ? rows : kBandElements / std::max<int64_t>(1, columns)),
              [&](int64_t begin, int64_t end, int) {
                if (!is_sound) return;
                std::vector<float> values(static_cast<size_t>((end - begin) * columns));
                decode_rows(tensor, begin, end - begin, values.data());
                if (!are_finite(values)) is_sound = false;
              });
  return is_sound;
}

Unexpected missing(const Model& model, const std::string& name) { return bad_input("{}: tensor {} is missing", model.source, name); }

Unexpected not_finite(const Model& model, const std::string& name) {
  return bad_input("{}: tensor {} holds values that are no finite numbers; fetch or convert the model again", model.source, name);
}

Result<std::vector<float>> read_vector(const Model& model, const std::string& name) {
  const PackedTensor* tensor = model.find(name);
  if (!tensor) return missing(model, name);
  std::vector<float> out(static_cast<size_t>(element_count(tensor->shape)));
  decode_rows(*tensor, 0, tensor->rows(), out.data());
  if (!are_finite(out)) return not_finite(model, name);
  return out;
}

Result<DeviceVector> read_device_vector(const Model& model, const std::string& name, Backend& backend) {
  TQ_ASSIGN(const std::vector<float> values, read_vector(model, name));
  return DeviceVector::create(values, backend);
}

using PrepareMatrix = Result<std::unique_ptr<Matrix>>(const PackedTensor& tensor, int64_t expert);

std::function<PrepareMatrix> as_stored(Backend& backend) {
  return [&backend](const PackedTensor& tensor, int64_t expert) { return backend.prepare(tensor, expert); };
}
std::function<PrepareMatrix> as_trainable(Backend& backend) {
  TQ_CHECK(backend.training() != nullptr);
  return [&backend](const PackedTensor& tensor, int64_t expert) { return backend.training()->prepare_trainable(tensor, expert); };
}

// How and where a model's weights are prepared.
struct Preparer {
  const Model& model;
  Backend& backend;
  std::function<PrepareMatrix> matrix;

  Result<DeviceVector> vector(const Norm& norm) const { return read_device_vector(model, norm.name + ".weight", backend); }
  Result<LinearWeight> linear(const Linear& linear, int64_t expert) const;
  Result<BlockWeights> block(const Block& block) const;
  Result<LayerWeights> layer(int64_t layer) const;
  Result<HeadWeights> head() const;
};

Result<BlockWeights> Preparer::block(const Block& block) const {
  BlockWeights weights;
  TQ_ASSIGN(weights.pre, vector(block.pre));
  if (block.post) {
    TQ_ASSIGN(weights.post, vector(*block.post));
  }
  if (const auto* attention = std::get_if<Attention>(&block.op)) {
    if (attention->query_norm) {
      TQ_ASSIGN(weights.query_norm, vector(*attention->query_norm));
    }
    if (attention->key_norm) {
      TQ_ASSIGN(weights.key_norm, vector(*attention->key_norm));
    }
  }
  for (const Linear* each : linears(block)) {
    if (each->experts == 0) {
      TQ_ASSIGN(LinearWeight weight, linear(*each, 0));
      weights.linears.push_back(std::move(weight));
      continue;
    }
    weights.experts.resize(static_cast<size_t>(each->experts));
    for (int64_t e = 0; e < each->experts; ++e) {
      TQ_ASSIGN(LinearWeight weight, linear(*each, e));
      weights.experts[static_cast<size_t>(e)].push_back(std::move(weight));
    }
  }
  return weights;
}

Result<LinearWeight> Preparer::linear(const Linear& linear, int64_t expert) const {
  const PackedTensor* tensor = model.find(linear.name + ".weight");
  if (!tensor) return bad_input("{}: tensor {}.weight is missing", model.source, linear.name);
  LinearWeight weight;
  TQ_ASSIGN(weight.matrix, matrix(*tensor, expert));
  if (linear.bias) {
    TQ_ASSIGN(const std::vector<float> bias, read_vector(model, linear.name + ".bias"));
    const auto own = std::span(bias).subspan(static_cast<size_t>(expert * linear.out), static_cast<size_t>(linear.out));
    TQ_ASSIGN(weight.bias, DeviceVector::create(own, backend));
  }
  return weight;
}

Result<LayerWeights> Preparer::layer(int64_t layer) const {
  LayerWeights weights;
  for (const Block& each : model.spec.layers[static_cast<size_t>(layer)]) {
    TQ_ASSIGN(BlockWeights prepared, block(each));
    weights.push_back(std::move(prepared));
  }
  return weights;
}

Result<HeadWeights> Preparer::head() const {
  HeadWeights head;
  TQ_ASSIGN(head.norm, vector(model.spec.final_norm));
  TQ_ASSIGN(head.linear, linear(model.spec.head, 0));
  return head;
}

}  // namespace

Result<DeviceVector> DeviceVector::create(std::span<const float> values, Backend& backend) {
  DeviceVector vector;
  TQ_ASSIGN(vector.memory_, backend.allocate(values.size_bytes()));
  backend.upload(vector.memory_.as<float>(), values.data(), values.size_bytes());
  return vector;
}

Status check_tables(const Model& model, ThreadPool& threads) {
  std::set<std::string> rounded;
  for (const Linear* linear : linears(model.spec))
    if (linear->role != Role::kRouter) rounded.insert(linear->name + ".weight");
  for (const std::string& name : tensor_names(model.spec)) {
    if (rounded.contains(name)) continue;
    const PackedTensor* tensor = model.find(name);
    if (!tensor) return missing(model, name);
    if (!is_finite(*tensor, threads)) return not_finite(model, name);
  }
  return {};
}

Result<LinearWeight> prepare_linear(const Model& model, const Linear& linear, Backend& backend, int64_t expert) {
  return Preparer{model, backend, as_stored(backend)}.linear(linear, expert);
}

Result<LayerWeights> prepare_layer(const Model& model, int64_t layer, Backend& backend) {
  return Preparer{model, backend, as_stored(backend)}.layer(layer);
}

Result<HeadWeights> prepare_head(const Model& model, Backend& backend) { return Preparer{model, backend, as_stored(backend)}.head(); }

Result<LayerWeights> prepare_trainable_layer(const Model& model, int64_t layer, Backend& backend) {
  return Preparer{model, backend, as_trainable(backend)}.layer(layer);
}

Result<TrainableModel> prepare_trainable(const Model& model, Backend& backend) {
  const Preparer preparer{model, backend, as_trainable(backend)};
  TrainableModel out;
  for (int64_t layer = 0; layer < model.spec.layers_count(); ++layer) {
    TQ_ASSIGN(LayerWeights weights, preparer.layer(layer));
    out.layers.push_back(std::move(weights));
  }
  TQ_ASSIGN(out.head, preparer.head());
  return out;
}

}  // namespace tq
