// The CUDA backend: one NVIDIA card of compute capability 8.0 or later.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/split/split_backend.h"

namespace tq {

struct CudaOptions {
  int gpus = 1;  // cards of this machine that are one backend (kernels/split)
  SplitBy split = SplitBy::kRows;
  Isa host_isa = best_isa();  // of what the processor computes beside the card
};

// Errors: kNoResource when there is no driver, no card, too old a card, fewer cards than wanted or cards that differ; the message says
// which. kUsage when the program was built without CUDA.
Result<std::unique_ptr<Backend>> make_cuda_backend(ThreadPool& threads, const CudaOptions& options = {});

}  // namespace tq
