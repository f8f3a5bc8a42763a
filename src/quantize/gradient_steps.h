// The gradients as steps of a job: a file a wave, so that an interrupted run keeps what it has measured.
#pragma once

#include "quantize/gradients.h"
#include "quantize/job_folder.h"

namespace tq {

// Measures the waves that the folder lacks; request.first_sequence is 0. Errors: those of measure_gradients and of files.
Result<Gradients> gradient_steps(const Model& model, Backend& backend, const Context& context, JobFolder& folder,
                                 const GradientRequest& request);

}  // namespace tq
