// The objective of a moment in the original basis, in one step.
#pragma once

#include "quantize/objective.h"

namespace tq {

inline Objective rotated_objective(Buffer<float> hessian, int64_t columns, const uint8_t* sign, double damping) {
  rotate_hessian(hessian, columns, sign);
  return factored_objective(std::move(hessian), columns, damping, 1);
}

}  // namespace tq
