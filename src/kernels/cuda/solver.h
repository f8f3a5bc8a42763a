// Cholesky factors and solutions by cuSOLVER.
#pragma once

#include <cusolverDn.h>

#include "kernels/cuda/device_memory.h"

namespace tq::cuda {

class Solver {
 public:
  explicit Solver(cudaStream_t stream) : stream_(stream) {}
  ~Solver();
  Solver(const Solver&) = delete;

  // What factoring a matrix [n, n] takes besides. Errors: kNoResource.
  Result<DeviceMemory> work(int64_t n, float* matrix);
  // The lower Cholesky factor of a row-major symmetric matrix takes its place; what is above the diagonal is not touched. False: not
  // definite. Waits for it.
  bool factor(float* matrix, int64_t n, const DeviceMemory& work);
  // right[rows, n] = right A^-1, A by its factor.
  void solve(const float* factor, int64_t n, float* right, int64_t rows, const DeviceMemory& work);

 private:
  cudaStream_t stream_;
  cusolverDnHandle_t handle_ = nullptr;  // made when it is first used
};

}  // namespace tq::cuda
