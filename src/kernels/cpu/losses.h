// Losses on the CPU, a row of logits at a time: float exponentials, double sums.
#pragma once

#include "kernels/training.h"

namespace tq::cpu {

void cross_entropy(const CrossEntropyArgs& args, ThreadPool& threads);
void divergence(const DivergenceArgs& args, ThreadPool& threads);
void sample(const SampleArgs& args, ThreadPool& threads);

}  // namespace tq::cpu
