// The report.html that an artifact carries.
#pragma once

#include <string>

#include "artifact/model.h"
#include "quantize/job.h"

namespace tq::cli {

// Sizes beside the original's, errors by tensor, rates by layer; nothing in it depends on where the artifact lies.
ReportOf artifact_page(const Model& original, double bits);

}  // namespace tq::cli
