// The CUDA backend: one NVIDIA card of compute capability 8.0 or later.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/split/split_backend.h"

namespace tq {

// Errors: kNoResource when the program was built without CUDA, or there is no driver, no card, or too old a card; the message says which.
Result<std::unique_ptr<Backend>> make_cuda_backend(ThreadPool& threads);
// Several cards of this machine as one backend (kernels/split). The same errors, and: fewer cards, cards that differ.
Result<std::unique_ptr<Backend>> make_cuda_backend(ThreadPool& threads, int gpus, SplitBy by = SplitBy::kRows);

}  // namespace tq
