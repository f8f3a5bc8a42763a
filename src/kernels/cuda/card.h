// The cards of this machine, and the backend of one.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace tq::cuda {

struct Card {
  int device = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
};

// At least one. Errors: kNoResource.
Result<std::vector<Card>> find_cards();

struct Part {
  std::unique_ptr<Backend> backend;
  int device = 0;
  cudaStream_t stream = nullptr;  // the backend's
};

// parts: cards that share the heads of attention; sums are split as for all heads. The card becomes the thread's current one, as it must be
// whenever the backend is called. host_isa: of what the processor computes beside it.
Result<Part> open_part(const Card& card, int parts, ThreadPool& threads, Isa host_isa);

}  // namespace tq::cuda
