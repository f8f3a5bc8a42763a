// QuIP#'s rounding as settings of the one loop: both sides transformed, bands of eight columns, block feedback.
#pragma once

#include "quantize/plan.h"
#include "quantize/round.h"

namespace tq {

// The second moment in the basis of the input's transform, factored for bands of eight columns. sign: of the tap point.
Objective e8p_objective(Buffer<float> hessian, int64_t columns, const uint8_t* sign, double damping);

struct E8pRequest {
  RowSource weight;  // in the original basis
  int64_t rows = 0, columns = 0;
  int bits = 2;
  const uint8_t* sign = nullptr;  // of the tap point
  std::vector<uint8_t> row_sign;  // of the output
  bool has_row_scale = false;     // ones, to be tuned
  const Objective* objective = nullptr;
  ThreadPool* threads = nullptr;
};
// The same for any number of threads.
Rounded round_to_e8p(const E8pRequest& request);

}  // namespace tq
