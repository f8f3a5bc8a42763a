// Errors of calls that fail only when the program or the card is broken.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

namespace tq::cuda {

inline void expect(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "CUDA, %s: %s\n", what, cudaGetErrorString(status));
  std::abort();
}

}  // namespace tq::cuda
