#include "graph/tunable.h"

#include <algorithm>
#include <cmath>

#include "base/float16.h"

namespace tq {
namespace {

constexpr float kLargestScale = 65504.0f;  // of F16

// Every norm and linear of the layers in order, then the last norm.
template <typename OnNorm, typename OnLinear>
void walk(const ModelSpec& spec, const OnNorm& on_norm, const OnLinear& on_linear) {
  for (const auto& layer : spec.layers)
    for (const Block& block : layer) {
      on_norm(block.pre);
      if (const auto* attention = std::get_if<Attention>(&block.op)) {
        if (attention->query_norm) on_norm(*attention->query_norm);
        if (attention->key_norm) on_norm(*attention->key_norm);
      }
      for (const Linear* linear : linears(block)) on_linear(*linear);
      if (block.post) on_norm(*block.post);
    }
  on_norm(spec.final_norm);
}

std::vector<float> stored_values(const Model& model, TunableKind kind, const std::string& owner) {
  if (kind == TunableKind::kRowScale) {
    const TensorView& scales = *model.find(owner + ".weight")->part("row_scale");
    std::vector<float> out(static_cast<size_t>(scales.count()));
    to_float(scales, out.data());
    return out;
  }
  const PackedTensor& tensor = *model.find(owner + (kind == TunableKind::kNorm ? ".weight" : ".bias"));
  std::vector<float> out(static_cast<size_t>(element_count(tensor.shape)));
  decode_rows(tensor, 0, tensor.rows(), out.data());
  return out;
}

float median_magnitude(std::vector<float> values, float offset) {
  for (float& each : values) each = std::fabs(each + offset);
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle > 0 ? *middle : 1.0f;
}

// The tensor with other row scales; keeps the memory of both alive.
PackedTensor with_row_scales(PackedTensor tensor, const std::vector<float>& scales) {
  struct Owner {
    std::shared_ptr<const void> below;
    std::vector<uint16_t> halves;
  };
  auto owner = std::make_shared<Owner>();
  owner->below = std::move(tensor.owner);
  for (const float scale : scales) owner->halves.push_back(float_to_f16(scale));
  for (PackedTensor::Part& part : tensor.parts)
    if (part.name == "row_scale") part.view.data = reinterpret_cast<const std::byte*>(owner->halves.data());
  tensor.owner = std::move(owner);
  return tensor;
}

}  // namespace

std::string TunableVector::name() const {
  constexpr const char* kEnds[] = {".row_scale", ".weight", ".bias"};
  return owner + kEnds[static_cast<size_t>(kind)];
}

Tunables::Tunables(const Model& model) {
  const auto on_norm = [&](const Norm& norm) { add(model, TunableKind::kNorm, norm.name, model.spec.norm_offset); };
  const auto on_linear = [&](const Linear& linear) {
    if (model.find(linear.name + ".weight")->part("row_scale")) add(model, TunableKind::kRowScale, linear.name, 0);
    if (linear.bias) add(model, TunableKind::kBias, linear.name, 0);
  };
  walk(model.spec, on_norm, on_linear);
}

void Tunables::add(const Model& model, TunableKind kind, const std::string& owner, float offset) {
  const std::vector<float> values = stored_values(model, kind, owner);
  TunableVector vector{.kind = kind, .owner = owner, .first = count(), .count = static_cast<int64_t>(values.size())};
  if (kind != TunableKind::kRowScale) vector.unit = median_magnitude(values, offset);
  places_[{kind, owner}] = vectors_.size();
  vectors_.push_back(std::move(vector));
  start_.insert(start_.end(), values.begin(), values.end());
}

const TunableVector* Tunables::find(TunableKind kind, const std::string& owner) const {
  const auto found = places_.find({kind, owner});
  return found == places_.end() ? nullptr : &vectors_[found->second];
}

std::vector<float> Tunables::values(const TunableVector& vector, std::span<const float> theta) const {
  std::vector<float> out(static_cast<size_t>(vector.count));
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t place = static_cast<size_t>(vector.first) + i;
    if (vector.kind == TunableKind::kRowScale) {
      out[i] = std::clamp(start_[place] * std::exp(theta[place]), -kLargestScale, kLargestScale);
    } else {
      out[i] = start_[place] + vector.unit * theta[place];
    }
  }
  return out;
}

std::vector<float> Tunables::stored(const TunableVector& vector, std::span<const float> theta) const {
  std::vector<float> out = values(vector, theta);
  if (vector.kind == TunableKind::kRowScale)
    for (float& each : out) each = f16_to_float(float_to_f16(each));
  return out;
}

Model Tunables::moved(const Model& model, std::span<const float> theta) const {
  Model out = model;
  for (const TunableVector& vector : vectors_) {
    const std::vector<float> own = stored(vector, theta);
    PackedTensor& tensor = out.tensors.at(vector.kind == TunableKind::kRowScale ? vector.owner + ".weight" : vector.name());
    if (vector.kind == TunableKind::kRowScale) {
      tensor = with_row_scales(std::move(tensor), own);
      continue;
    }
    Buffer<float> copy = Buffer<float>::uninitialized(own.size());
    std::copy(own.begin(), own.end(), copy.begin());
    tensor = plain_tensor(tensor.shape, std::move(copy));
  }
  return out;
}

std::vector<std::string> plain_vectors(const ModelSpec& spec) {
  std::vector<std::string> out;
  walk(
      spec, [&](const Norm& norm) { out.push_back(norm.name + ".weight"); },
      [&](const Linear& linear) {
        if (linear.bias) out.push_back(linear.name + ".bias");
      });
  return out;
}

}  // namespace tq
