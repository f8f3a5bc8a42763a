// Up to kMaxTokens tokens times matrices of planes that share their input, and the memory between its kernels.
#pragma once

#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/weights.h"

namespace tq::cuda {

QuantizeArgs quantize_args(const Weights& weights, const InputArgs& input, int tokens);

class PlanePass {
 public:
  explicit PlanePass(int multiprocessors) : multiprocessors_(multiprocessors) {}

  // Errors: kNoResource.
  Status open();
  // jobs: up to kMaxJobs, of CudaMatrix. adds: to the outputs. generation: grows when memory that a recording may use has gone.
  void run(const InputArgs& input, std::span<const LinearJob> jobs, int tokens, bool adds, uint64_t& generation, cudaStream_t stream);

 private:
  int multiprocessors_;
  DeviceMemory arrived_;  // zeros between launches
  Scratch words_, scales_, partial_, totals_;
};

}  // namespace tq::cuda
