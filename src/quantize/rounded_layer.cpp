#include "quantize/rounded_layer.h"

#include "artifact/format.h"
#include "codec/e8p/e8p.h"
#include "codec/grid/grid.h"

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

// The arrays of a tensor that its plan has and a step's file names after it.
std::vector<const char*> own_parts(const TensorPlan& plan) {
  if (plan.method == Method::kTurboquant) return {"bits", "row_scale", "rates"};
  if (plan.method != Method::kQuip) {
    std::vector<const char*> parts = {"scalar", "codes", "scale", "zero"};
    if (plan.has_order) parts.push_back("order");
    return parts;
  }
  std::vector<const char*> parts = {"vectors", "stage", "row_sign"};
  if (plan.bits() > 2) parts.push_back("residual");
  if (plan.has_row_scale) parts.push_back("row_scale");
  return parts;
}

void add_taps(const grid::TapsByRate& taps, PackedTensor& tensor) {
  for (size_t rate = 0; rate < taps.size(); ++rate)
    if (!taps[rate].empty())
      tensor.parts.push_back({grid::taps_name(static_cast<int>(rate), static_cast<int>(taps[rate].size())),
                              view_of(DType::kF32, taps[rate].data(), taps[rate].size() * sizeof(float))});
}

void add_e8p_tables(PackedTensor& tensor) {
  static const e8p::Table absolute = e8p::absolute_table(), residual = e8p::residual_table();
  tensor.parts.push_back({"e8p.absolute", view_of(DType::kF32, absolute.data(), absolute.size() * sizeof(float))});
  tensor.parts.push_back({"e8p.residual", view_of(DType::kF32, residual.data(), residual.size() * sizeof(float))});
}

Result<PackedTensor> packed(const TensorPlan& plan, const grid::TapsByRate& taps, const StepArrays& arrays) {
  const Linear& linear = plan.linear;
  PackedTensor tensor;
  tensor.codec = plan.method == Method::kTurboquant ? CodecId::kGrid : plan.method == Method::kQuip ? CodecId::kE8p : CodecId::kScalar;
  tensor.shape = {linear.out, linear.in};
  if (linear.experts > 0) tensor.shape = {linear.experts, linear.out, linear.in};
  for (const char* part : own_parts(plan)) {
    TQ_ASSIGN(const TensorView view, find(arrays, linear.name + "." + part));
    tensor.parts.push_back({part, view});
  }
  if (tensor.codec == CodecId::kScalar) return tensor;
  TQ_ASSIGN(const TensorView sign, find(arrays, linear.tap + ".sign"));
  tensor.parts.push_back({"sign", sign});
  if (plan.method == Method::kQuip) add_e8p_tables(tensor);
  else add_taps(taps, tensor);
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
    TQ_TRY(codec_of(rounded.codec).validate(rounded, tensor.linear.name));
    out.tensors.at(tensor.linear.name + ".weight") = std::move(rounded);
  }
  return out;
}

}  // namespace tq
