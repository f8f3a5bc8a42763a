// The CPU backend: threads and the best instruction set, or a named one.
#pragma once

#include <memory>

#include "base/cpu.h"
#include "kernels/backend.h"

namespace tq {

// isa must be one of supported_isas().
std::unique_ptr<Backend> make_cpu_backend(ThreadPool& threads, Isa isa);

}  // namespace tq
