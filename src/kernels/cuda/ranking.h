// Backend::rank: its memory, and the way to the host.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/scratch.h"

namespace tq::cuda {

class Ranking {
 public:
  // generation: grows when memory that a recording may use has gone.
  void run(const RankArgs& args, uint64_t& generation, cudaStream_t stream);
  // Errors: kNoResource.
  Status reserve(int64_t rows, int64_t count, uint64_t& generation);

 private:
  Scratch ranked_, states_;
};

}  // namespace tq::cuda
