// A rounded step as a file of the job's folder: its arrays, and as metadata what there is to say of them.
#pragma once

#include <map>
#include <string>

#include "quantize/calibrate_plan.h"
#include "quantize/job_folder.h"
#include "quantize/round_steps.h"

namespace tq {

// What the files of steps say beside their arrays.
struct StepFacts {
  std::map<std::string, double> errors;                 // tr(E H E^T) / tr(W H W^T) by tensor
  std::map<std::string, std::string> experts;           // RoundedStep::experts
  std::map<std::string, InputFacts> inputs;             // RoundedStep::inputs
  std::map<std::string, CalibrationFacts> calibration;  // of the blocks, by step
};

// facts: of a layer that was calibrated, or null.
Status save_step_file(JobFolder& folder, const std::string& step, const std::vector<TensorPlan>& tensors, const RoundedStep& rounded,
                      const CalibrationFacts* facts);
// Adds what one file says.
void read_step_facts(const safetensors::Archive& file, StepFacts& facts);

}  // namespace tq
