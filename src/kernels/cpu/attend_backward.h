// Gradients of attention on the CPU.
#pragma once

#include <vector>

#include "kernels/cpu/simd/kernels.h"
#include "kernels/float_products.h"
#include "kernels/training.h"

namespace tq::cpu {

// Memory of attend_backward(); grows and stays.
struct AttendBackwardWorkspace {
  std::vector<Buffer<float>> of_thread;
  Buffer<float> key, value;  // [heads, T, head_dim]: each query head's share of the gradients
};

void attend_backward(const AttendBackwardArgs& args, const FloatKernels& kernels, FloatProducts& products,
                     AttendBackwardWorkspace& workspace);

}  // namespace tq::cpu
