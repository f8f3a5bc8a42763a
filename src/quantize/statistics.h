// Second moments of the inputs of linears: H = sum_t x_t x_t^T.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/thread_pool.h"
#include "tensor/tensor_view.h"

namespace tq {

class SecondMoment {
 public:
  explicit SecondMoment(int64_t columns);
  // input: [T, C]. The same sums on any number of threads.
  void add(const float* input, int64_t tokens, ThreadPool& threads);
  int64_t columns() const { return columns_; }
  int64_t tokens() const { return tokens_; }
  // [C, C], the mean over the tokens, both triangles. Leaves the object empty.
  Buffer<float> take();

 private:
  int64_t columns_, tokens_ = 0;
  Buffer<float> lower_;  // [C, C], lower triangle
};

}  // namespace tq
