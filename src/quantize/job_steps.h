// The steps of a job that hold rounded matrices: their names, and how much of them is still to be written.
#pragma once

#include <string>

#include "quantize/job_folder.h"

namespace tq {

std::string layer_step(int64_t layer);
constexpr const char* kTablesStep = "tables";

// Bytes that the job will still take of the disk: steps that the folder lacks, candidates among them, and beside them, before they are
// removed, the artifact. What is small against these (gradients, costs, the state of a tuning) is not counted.
uint64_t missing_bytes(const Model& model, const QuantizePlan& plan, const JobFolder& folder);

}  // namespace tq
