#include "quantize/rounded_model.h"

#include "artifact/format.h"

namespace tq {
namespace {

// What the tensors point into.
struct Shared {
  StepArchives archives;
  grid::TapsByRate taps;
};

class Builder {
 public:
  Builder(const QuantizePlan& plan, const StepArchives& archives) : shared_(std::make_shared<Shared>(archives, plan.taps)) {
    for (const auto& archive : archives)
      for (const auto& tensor : archive->tensors()) arrays_.emplace(tensor.name, tensor.view);
  }

  Result<PackedTensor> grid_tensor(const TensorPlan& plan) const {
    const Linear& linear = plan.linear;
    PackedTensor tensor{.codec = CodecId::kGrid, .shape = {linear.out, linear.in}};
    if (linear.experts > 0) tensor.shape = {linear.experts, linear.out, linear.in};
    for (const char* part : {"bits", "row_scale", "rates"}) TQ_TRY(add(tensor, part, linear.name + "." + part));
    TQ_TRY(add(tensor, "sign", linear.tap + ".sign"));
    for (size_t rate = 0; rate < shared_->taps.size(); ++rate) {
      const grid::Taps& taps = shared_->taps[rate];
      if (taps.empty()) continue;
      const auto window = static_cast<int64_t>(taps.size());
      tensor.parts.push_back({taps_name(static_cast<int>(rate), static_cast<int>(window)),
                              {DType::kF32, {window}, reinterpret_cast<const std::byte*>(taps.data())}});
    }
    tensor.owner = shared_;
    TQ_TRY(codec_of(CodecId::kGrid).validate(tensor, linear.name));
    return tensor;
  }

  // The plain tensor of that name and shape, if a step has changed it.
  void change(const std::string& name, PackedTensor& tensor) const {
    const auto found = arrays_.find(name);
    if (found == arrays_.end() || found->second.count() != element_count(tensor.shape)) return;
    Shape shape = std::move(tensor.shape);
    tensor = plain_tensor(found->second, shared_);
    tensor.shape = shape;
    tensor.parts[0].view.shape = std::move(shape);
  }

 private:
  Status add(PackedTensor& tensor, const char* part, const std::string& name) const {
    const auto found = arrays_.find(name);
    if (found == arrays_.end()) return bad_input("an unfinished run lacks {}; remove it and begin again", name);
    tensor.parts.push_back({part, found->second});
    return {};
  }

  std::shared_ptr<const Shared> shared_;
  std::map<std::string, TensorView> arrays_;
};

}  // namespace

Result<Model> rounded_model(const Model& source, const QuantizePlan& plan, const StepArchives& archives) {
  const Builder builder(plan, archives);
  Model model = source;
  model.files.clear();
  for (const TensorPlan* tensor : plan.tensors()) {
    TQ_CHECK(tensor->method == Method::kTurboquant);
    TQ_ASSIGN(model.tensors.at(tensor->linear.name + ".weight"), builder.grid_tensor(*tensor));
  }
  for (auto& [name, tensor] : model.tensors)
    if (tensor.codec != CodecId::kGrid) builder.change(name, tensor);
  return model;
}

}  // namespace tq
