// Products of a few dozen tokens with planes that are decoded in registers (band_linear.cu). Plain data, for C++ and CUDA.
#pragma once

#include <cstdint>

#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

constexpr int kMostBandTokens = 64;

// output[T, R] (+)= input[T, C] · W[R, C]^T + bias, for matrices that decodes_bands() holds for as a whole.
struct BandArgs {
  PlaneJob job[kMaxJobs];
  int jobs = 0, tokens = 0, columns = 0, groups = 0;
  const void* input = nullptr;  // [T, C] halves in the rotated basis; C a multiple of 8
  bool adds = false;
  int most_steps = 0;                  // rows of tiles that 16 rows take from, at most
  int first_block[kMaxJobs + 1] = {};  // of each matrix, its first thread block
};

}  // namespace tq::cuda
