// Rounding to scalar codes: round to nearest, GPTQ and AWQ as settings of the one loop.
#pragma once

#include "quantize/plan.h"
#include "quantize/round.h"

namespace tq {

struct ScalarRequest {
  RowSource weight;  // scaled and divided already (AWQ)
  int64_t rows = 0, columns = 0, group = 0;
  int bits = 4;
  const Objective* objective = nullptr;         // in the order; its feedback is used if it has one
  const std::vector<int64_t>* order = nullptr;  // columns in the order of rounding, or null
  bool searches_clip = false;                   // AWQ
  ThreadPool* threads = nullptr;                // or the caller's alone
};
// Whether the codec can say how the plan's scalar tensors are grouped and ordered. Errors: kUsage.
Status check_scalar_sizes(const QuantizePlan& plan);

// Rows know nothing of each other: blocks of them are rounded side by side, the same ones on any number of threads.
Rounded round_to_scalar(const ScalarRequest& request);

}  // namespace tq
