// Training operations of the CPU backend.
#pragma once

#include <memory>

#include "base/cpu.h"
#include "kernels/training.h"

namespace tq::cpu {

std::unique_ptr<Training> make_training(ThreadPool& threads, Isa isa);

}  // namespace tq::cpu
