#include "graph/tunable_model.h"

#include "kernels/training.h"

namespace tq {

Result<TunableModel> TunableModel::create(const Model& model, const Tunables& tunables, std::span<const float> theta, Backend& backend) {
  TunableModel out(tunables, backend);
  const Model moved = tunables.moved(model, theta);
  TQ_ASSIGN(TrainableModel prepared, prepare_trainable(moved, backend));
  out.weights_ = std::make_unique<TrainableModel>(std::move(prepared));
  const auto count = static_cast<size_t>(tunables.count());
  TQ_ASSIGN(out.factors_, backend.allocate(count * sizeof(float)));
  out.values_.resize(count), out.scale_.resize(count);
  for (const TunableVector& vector : tunables.vectors()) {
    const std::vector<float> stored = tunables.stored(vector, theta);
    std::copy(stored.begin(), stored.end(), out.scale_.begin() + vector.first);
  }
  out.find_places(model.spec);
  return out;
}

void TunableModel::add(TunableKind kind, const std::string& owner, int64_t expert, Matrix* matrix, DeviceVector* plain) {
  const TunableVector* vector = tunables_->find(kind, owner);
  if (!vector) return;
  const int64_t count = matrix ? matrix->rows() : static_cast<int64_t>(plain->size());
  places_.push_back({vector, expert * count, count, matrix, plain});
}

void TunableModel::find_places(const ModelSpec& spec) {
  const auto add_linear = [&](const Linear& linear, int64_t expert, LinearWeight& weight) {
    add(TunableKind::kRowScale, linear.name, expert, weight.matrix.get(), nullptr);
    if (linear.bias) add(TunableKind::kBias, linear.name, expert, nullptr, &weight.bias);
  };
  const auto add_norm = [&](const Norm& norm, DeviceVector& weight) { add(TunableKind::kNorm, norm.name, 0, nullptr, &weight); };
  for (size_t layer = 0; layer < spec.layers.size(); ++layer)
    for (size_t i = 0; i < spec.layers[layer].size(); ++i) {
      const Block& block = spec.layers[layer][i];
      BlockWeights& weights = weights_->layers[layer][i];
      add_norm(block.pre, weights.pre);
      if (block.post) add_norm(*block.post, weights.post);
      if (const auto* attention = std::get_if<Attention>(&block.op)) {
        if (attention->query_norm) add_norm(*attention->query_norm, weights.query_norm);
        if (attention->key_norm) add_norm(*attention->key_norm, weights.key_norm);
      }
      size_t single = 0, stacked = 0;
      for (const Linear* linear : linears(block)) {
        if (linear->experts == 0) {
          add_linear(*linear, 0, weights.linears[single++]);
          continue;
        }
        for (int64_t e = 0; e < linear->experts; ++e) add_linear(*linear, e, weights.experts[static_cast<size_t>(e)][stacked]);
        ++stacked;
      }
    }
  add_norm(spec.final_norm, weights_->head.norm);
}

void TunableModel::move(std::span<const float> theta) {
  for (const TunableVector& vector : tunables_->vectors()) {
    const std::vector<float> values = tunables_->values(vector, theta);
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t place = static_cast<size_t>(vector.first) + i;
      values_[place] = values[i];
      if (vector.kind != TunableKind::kRowScale) continue;
      values_[place] = scale_[place] != 0 ? values[i] / scale_[place] : 1.0f;
      scale_[place] *= values_[place];
    }
  }
  backend_->upload(factors_.as<float>(), values_.data(), values_.size() * sizeof(float));
  for (const Place& place : places_) {
    const float* from = factors_.as<float>() + place.vector->first + place.first;
    if (place.plain) {
      backend_->copy(place.plain->data(), from, static_cast<uint64_t>(place.count) * sizeof(float));
      continue;
    }
    Training& training = *backend_->training();
    training.scale_rows(
        {.values = training.weights(*place.matrix), .factor = from, .rows = place.count, .columns = place.matrix->columns()});
  }
}

}  // namespace tq
