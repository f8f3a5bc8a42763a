// The end of a job: what the finished directory will hold, and the steps joined into it.
#pragma once

#include <functional>
#include <string>

#include "quantize/rounded_model.h"
#include "quantize/step_file.h"

namespace tq {

// What the finished directory will hold, in bytes; exact.
uint64_t planned_bytes(const Model& model, const QuantizePlan& plan);

// A page about the artifact in a directory.
using ReportOf = std::function<Result<std::string>(const std::string& directory)>;

struct AssembleRequest {
  const Model& model;
  const QuantizePlan& plan;
  const StepArchives& steps;      // of arrays of one name the first counts
  const StepFacts& facts;         // of all steps
  double untuned = 0, tuned = 0;  // KL on held-out text before and after the tuning
  const ReportOf& report;         // or empty
};
// Writes everything but the steps into the directory. Errors: those of files and of the report.
Status assemble(const AssembleRequest& request, const std::string& directory);

}  // namespace tq
