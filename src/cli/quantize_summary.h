// What `tq quantize` prints when it is done.
#pragma once

#include "cli/quantize_flags.h"
#include "quantize/job.h"

namespace tq::cli {

void print_summary(const QuantizeSummary& summary, const QuantizeFlags& flags);

}  // namespace tq::cli
