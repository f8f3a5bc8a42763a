// Rows of a matrix on their way from the host to the device: through two regions of pinned memory, so that reading them, their copy and
// what is done to them there overlap.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

#include "base/thread_pool.h"

namespace tq::cuda {

class RowStaging {
 public:
  using Read = std::function<void(int64_t first, int64_t count, float* out)>;
  using Use = std::function<void(const float* rows, int64_t first, int64_t count)>;

  explicit RowStaging(ThreadPool& threads) : threads_(threads) {}
  ~RowStaging();
  RowStaging(const RowStaging&) = delete;

  // Calls `use` with all rows of a matrix [R, C] in turn, a band of them at a time, in the device's memory: valid for what it enqueues on
  // the default stream. read: from several threads at once. What the device says, or success.
  cudaError_t run(int64_t rows, int64_t columns, const Read& read, const Use& use);

 private:
  struct Region {
    float* host = nullptr;
    float* device = nullptr;
    cudaEvent_t is_free = nullptr;
  };
  cudaError_t open(int64_t floats);
  void close();

  ThreadPool& threads_;
  Region regions_[2];
  int64_t floats_ = 0;
};

}  // namespace tq::cuda
