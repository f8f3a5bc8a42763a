// Attention on the CPU.
#pragma once

#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/simd/kernels.h"

namespace tq::cpu {

// Memory of attend(), a part for every thread; grows and stays.
struct AttendWorkspace {
  std::vector<Buffer<float>> of_thread;
};

void attend(const AttendArgs& args, const FloatKernels& kernels, ThreadPool& threads, AttendWorkspace& workspace);

}  // namespace tq::cpu
