// Block-wise calibration of a whole model, as a job runs it: layer after layer, with both streams.
#pragma once

#include <map>

#include "quantize/calibrate_layer.h"

namespace tq {

class Calibration {
 public:
  // backend: runs and trains the model; rounding: rounds its matrices. Errors: those of CalibrationPasses::create.
  static Result<Calibration> create(const CalibrationRequest& request, Backend& backend, Backend& rounding, const Context& context);

  // The next layer. Errors: those of calibrate_layer.
  Result<CalibratedLayer> round();
  // Takes both streams through the next layer as the finished step has it; that is then done. Errors: kBadInput for a step that lacks
  // something; kInterrupted.
  Status advance(std::shared_ptr<const safetensors::Archive> step);
  // After the last layer, of the quantized stream: what the head sees.
  Status measure_head(Statistics& statistics) { return passes_.measure_head(statistics); }

 private:
  Calibration(CalibrationPasses passes, const CalibrationBudget& budget, Backend& rounding)
      : passes_(std::move(passes)), budget_(budget), rounding_(&rounding) {}

  CalibrationPasses passes_;
  CalibrationBudget budget_;
  Backend* rounding_;
  int64_t layer_ = 0;
  bool has_targets_ = false;  // of layer_
};

}  // namespace tq
