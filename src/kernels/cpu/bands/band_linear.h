// Products through decoded bands: rows of any codec as floats, packed, times many tokens. The exact way, and that of codecs without
// kernels.
#pragma once

#include <functional>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/simd/kernels.h"
#include "tensor/tensor_view.h"

namespace tq::cpu {

// Activations in blocks of the kernel's tokens.
class BandInput {
 public:
  // input: [T, C]
  void pack(const float* input, int64_t tokens, int64_t columns, const FloatKernels& kernels, ThreadPool& threads);
  int64_t tokens() const { return tokens_; }
  int64_t columns() const { return columns_; }
  int64_t blocks() const { return blocks_; }
  const float* block(int64_t i) const { return values_.data() + i * columns_ * block_tokens_; }

 private:
  int64_t tokens_ = 0, columns_ = 0, blocks_ = 0, block_tokens_ = 0;
  Buffer<float> values_;  // [blocks][C][tokens of a block]
};

struct BandJob {
  int64_t rows = 0;
  // Rows [begin, begin + count) of the matrix as floats, [count, C].
  std::function<void(int64_t begin, int64_t count, float* out)> decode;
  const float* bias = nullptr;
  float* output = nullptr;  // [T, R]
};

// Memory of a thread; grows and stays.
struct BandWorkspace {
  struct Thread {
    Buffer<float> rows, panel, sums;
  };
  std::vector<Thread> of_thread;
};

// The order of every sum depends on the number of columns alone.
void band_linear(const BandJob& job, const BandInput& input, const FloatKernels& kernels, ThreadPool& threads, BandWorkspace& workspace);

}  // namespace tq::cpu
