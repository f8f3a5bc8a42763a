#include "quantize/rounded_layer.h"

namespace tq {
namespace {

TensorView view_of(DType dtype, const void* data, size_t bytes) {
  return {dtype, {static_cast<int64_t>(bytes / dtype_size(dtype))}, static_cast<const std::byte*>(data)};
}

Result<TensorView> find(const StepArrays& arrays, const std::string& name) {
  const auto found = arrays.find(name);
  if (found == arrays.end()) return bad_input("an unfinished run lacks {}; remove it and begin again", name);
  return found->second;
}

Result<PackedTensor> packed(const TensorPlan& plan, const grid::TapsByRate& taps, const StepArrays& arrays) {
  const Linear& linear = plan.linear;
  PackedTensor tensor;
  tensor.codec = CodecId::kGrid;
  tensor.shape = {linear.out, linear.in};
  if (linear.experts > 0) tensor.shape = {linear.experts, linear.out, linear.in};
  for (const char* part : {"bits", "row_scale", "rates"}) {
    TQ_ASSIGN(const TensorView view, find(arrays, linear.name + "." + part));
    tensor.parts.push_back({part, view});
  }
  TQ_ASSIGN(const TensorView sign, find(arrays, linear.tap + ".sign"));
  tensor.parts.push_back({"sign", sign});
  for (size_t rate = 0; rate < taps.size(); ++rate)
    if (!taps[rate].empty())
      tensor.parts.push_back({grid::taps_name(static_cast<int>(rate), static_cast<int>(taps[rate].size())),
                              view_of(DType::kF32, taps[rate].data(), taps[rate].size() * sizeof(float))});
  return tensor;
}

}  // namespace

StepArrays arrays_of(const std::vector<TensorPlan>& tensors, const RoundedStep& rounded) {
  StepArrays arrays;
  for (size_t i = 0; i < tensors.size(); ++i)
    for (const RoundedPart& part : rounded.tensors[i].parts)
      arrays[tensors[i].linear.name + "." + part.name] = view_of(part.dtype, part.bytes.data(), part.bytes.size());
  for (const auto& [tap, sign] : rounded.signs) arrays[tap + ".sign"] = view_of(DType::kU8, sign.data(), sign.size());
  for (const auto& [name, values] : rounded.changed) arrays[name] = view_of(DType::kF32, values.data(), values.size() * sizeof(float));
  return arrays;
}

StepArrays arrays_of(const safetensors::Archive& step) {
  StepArrays arrays;
  for (const auto& tensor : step.tensors()) arrays[tensor.name] = tensor.view;
  return arrays;
}

Result<Model> with_rounded(const Model& model, const std::vector<TensorPlan>& tensors, const grid::TapsByRate& taps,
                           const StepArrays& arrays, std::shared_ptr<const void> owner) {
  Model out = model;
  out.files.clear();
  for (const auto& [name, view] : arrays) {
    const auto found = out.tensors.find(name);
    if (found == out.tensors.end()) continue;
    if (view.dtype != DType::kF32 || view.count() != element_count(found->second.shape))
      return bad_input("an unfinished run has no {} of the model's size; remove it and begin again", name);
    found->second = plain_tensor(TensorView{view.dtype, found->second.shape, view.data}, owner);
  }
  for (const TensorPlan& tensor : tensors) {
    TQ_ASSIGN(PackedTensor rounded, packed(tensor, taps, arrays));
    rounded.owner = owner;
    TQ_TRY(codec_of(CodecId::kGrid).validate(rounded, tensor.linear.name));
    out.tensors.at(tensor.linear.name + ".weight") = std::move(rounded);
  }
  return out;
}

}  // namespace tq
