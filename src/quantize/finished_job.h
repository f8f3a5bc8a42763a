// What the files of a finished artifact say of the job that made it: the summary where the run that could give one was killed.
#pragma once

#include "quantize/job.h"
#include "quantize/job_folder.h"

namespace tq {

// Of a complete folder: sizes, rates, errors and how blocks went. Empty is what no file says: seconds, steps of the tuning. plan: as of the
// job before it chose any rates. Errors: kBadInput for files that are not those of such an artifact.
Result<QuantizeSummary> finished_summary(const JobFolder& folder, const Model& model, const QuantizePlan& plan);

}  // namespace tq
