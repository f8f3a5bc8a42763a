#include "quantize/calibrate.h"

#include "quantize/rounded_layer.h"

namespace tq {

Result<Calibration> Calibration::create(const CalibrationRequest& request, Backend& backend, Backend& rounding, const Context& context) {
  TQ_ASSIGN(CalibrationPasses passes, CalibrationPasses::create(request, backend, context));
  const CalibrationBudget budget = calibration_budget(request.plan.options, count_weights(request.model.spec).linears);
  return Calibration(std::move(passes), budget, rounding);
}

Result<CalibratedLayer> Calibration::round() {
  TQ_TRY(passes_.begin(layer_));
  TQ_ASSIGN(CalibratedLayer made, calibrate_layer(passes_, budget_, *rounding_));
  has_targets_ = true;
  const CalibrationFacts& facts = made.facts;
  if (facts.plain > 0)
    passes_.context().listener.note(fmt::format(
        "layer {}: error at its output on held-out text {:.4g} without calibration, {:.4g} with it{}{}", layer_, facts.plain,
        facts.calibrated, facts.attempts > 1 ? fmt::format(" (attempt {})", facts.attempts) : "", facts.is_kept ? "" : ", not kept"));
  else if (budget_.steps > 0)
    passes_.context().listener.note(fmt::format("layer {}: a mixture of experts, rounded without calibration", layer_));
  return made;
}

Status Calibration::advance(std::shared_ptr<const safetensors::Archive> step) {
  const CalibrationRequest& request = passes_.request();
  const StageTimer timer(passes_.context().times, "advancing", [this] { passes_.backend().synchronize(); });
  if (!has_targets_) {
    TQ_TRY(passes_.begin(layer_));
    TQ_ASSIGN(const LayerWeights original, prepare_trainable_layer(request.model, layer_, passes_.backend()));
    TQ_TRY(passes_.make_targets(original));
  }
  const std::vector<TensorPlan>& tensors = request.plan.layers[static_cast<size_t>(layer_)];
  TQ_ASSIGN(const Model model, with_rounded(request.model, tensors, request.plan.taps, arrays_of(*step), step));
  TQ_ASSIGN(const LayerWeights weights, prepare_trainable_layer(model, layer_, passes_.backend()));
  TQ_TRY(passes_.advance(weights));
  ++layer_;
  has_targets_ = false;
  return {};
}

}  // namespace tq
