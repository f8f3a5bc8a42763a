// A card beside the scalar oracle; skipped by name without a card.
#pragma once

#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/matrices.h"

namespace tq {

class CudaBackend : public testing::Test {
 protected:
  void SetUp() override {
    auto cuda = make_cuda_backend(threads_);
    if (!cuda) GTEST_SKIP() << cuda.error().message;
    cuda_ = std::move(*cuda);
  }

  ThreadPool threads_{4};
  std::unique_ptr<Backend> ref_ = make_ref_backend(threads_), cuda_;
};

inline std::vector<float> rows_of(const std::vector<float>& all, int64_t first, int64_t count, int64_t width) {
  return {all.begin() + first * width, all.begin() + (first + count) * width};
}

}  // namespace tq
