// Attention on the CPU.
#pragma once

#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention_digits.h"
#include "kernels/cpu/simd/kernels.h"

namespace tq::cpu {

// Memory of attend(); grows and stays.
struct AttendWorkspace {
  std::vector<Buffer<float>> of_thread;
  Buffer<float> packed;  // keys and values of some heads, when there are many queries
  AttendDigitsWorkspace digits;
};

// digits: null where the processor has no tiles of bytes.
void attend(const AttendArgs& args, const FloatKernels& kernels, const DigitKernels* digits, ThreadPool& threads,
            AttendWorkspace& workspace);

}  // namespace tq::cpu
