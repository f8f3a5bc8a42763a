// Least squares in closed form: what the linears of a stage can take up, before they are rounded, of what was lost before them.
#pragma once

#include <optional>

#include "quantize/misfit.h"

namespace tq {

// The change X [R, C] that makes sum_t u |e_t - X x_t|^2 least over the training tokens, (sum u e x^T)(sum u x x^T + ridge)^-1, with the
// one of a few ridges that makes this sum least over the held-out tokens; without a value if none makes it smaller than no change does.
// moment: [C, C] sum u x x^T over the training tokens, what is below and on the diagonal. metric: [R, R], or null: I; errors are measured
// as v^T metric v. The result is in the backend's memory. Errors: kNoResource.
struct CompensationInput {
  const MisfitMeter& misfit;
  const float* moment = nullptr;
  const float* metric = nullptr;
};
struct Compensation {
  Memory change;     // [R, C]
  double ridge = 0;  // relative to the moment's mean diagonal
  double gain = 0;   // by how much the held-out sum falls
};
Result<std::optional<Compensation>> find_compensation(const CompensationInput& input, Backend& backend);

}  // namespace tq
