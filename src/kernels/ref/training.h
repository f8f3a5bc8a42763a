// Training operations of the oracle backend.
#pragma once

#include <memory>

#include "kernels/training.h"

namespace tq::ref {

std::unique_ptr<Training> make_training(ThreadPool& threads);

}  // namespace tq::ref
