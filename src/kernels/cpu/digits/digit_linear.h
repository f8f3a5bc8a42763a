// Products through decoded bands as band_linear, by digits.
#pragma once

#include <vector>

#include "kernels/cpu/bands/band_linear.h"
#include "kernels/cpu/digits/digit_kernels.h"

namespace tq::cpu {

// Activations as the right operand, in tiles of 16 tokens.
class DigitInput {
 public:
  // input: [T, C]
  void pack(const float* input, int64_t tokens, int64_t columns, const DigitKernels& kernels, ThreadPool& threads);
  int64_t tokens() const { return tokens_; }
  int64_t columns() const { return columns_; }
  int64_t groups() const { return groups_; }
  int64_t tiles() const { return tiles_; }
  const uint8_t* values(int64_t tile, int64_t group) const { return values_.data() + (group * tiles_ + tile) * kDigitBytes; }
  const float* scale(int64_t tile, int64_t group) const { return scale_.data() + (group * tiles_ + tile) * kDigitRows; }

 private:
  int64_t tokens_ = 0, columns_ = 0, groups_ = 0, tiles_ = 0;
  Buffer<uint8_t> values_;  // [groups][tiles]
  Buffer<float> scale_;     // [groups][tiles][16]
};

// Memory of a thread; grows and stays.
struct DigitWorkspace {
  struct Thread {
    Buffer<float> rows, scale, sums;
    Buffer<uint8_t> values;
  };
  std::vector<Thread> of_thread;
};

// The order of every sum depends on the number of columns alone.
void digit_linear(const BandJob& job, const DigitInput& input, const DigitKernels& kernels, ThreadPool& threads, DigitWorkspace& workspace);

}  // namespace tq::cpu
