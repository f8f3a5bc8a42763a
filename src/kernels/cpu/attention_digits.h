// Attention of many queries through products of digits (digits/digit_kernels.h).
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/digits/digit_kernels.h"
#include "kernels/cpu/simd/kernels.h"

namespace tq::cpu {

struct Part;  // attention_part.h

// Grows and stays.
struct AttendDigitsWorkspace {
  Buffer<uint8_t> digits;  // of keys and values of some heads
  Buffer<float> scale;
  struct Thread {
    Buffer<float> floats;
    Buffer<uint8_t> digits;
  };
  std::vector<Thread> of_thread;
};

// Queries of one stretch. What a query reads of positions behind it is a factor of 0, but they may share a power of two with those before.
void attend_digits(const Part& args, const FloatKernels& kernels, const DigitKernels& digits, ThreadPool& threads,
                   AttendDigitsWorkspace& workspace);

}  // namespace tq::cpu
