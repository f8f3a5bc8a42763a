// Attention on the CPU.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/simd/kernels.h"
#include "kernels/float_products.h"

namespace tq::cpu {

// Memory of attend(); grows and stays.
struct AttendWorkspace {
  std::vector<Buffer<float>> of_thread;
  Buffer<float> packed;  // keys and values of some heads, when there are many queries
};

void attend(const AttendArgs& args, const FloatKernels& kernels, FloatProducts& products, AttendWorkspace& workspace);

}  // namespace tq::cpu
