// Dense products, and solutions of normal equations by OpenBLAS on one thread each.
#pragma once

#include "base/thread_pool.h"
#include "kernels/float_products.h"
#include "kernels/training.h"

namespace tq::cpu {

void product(const DenseProductArgs& args, FloatProducts& products);
bool solve(const SolveArgs& args, ThreadPool& threads);

}  // namespace tq::cpu
