// Losses on the CPU, a row of logits at a time: float exponentials, double sums.
#pragma once

#include "kernels/cpu/simd/kernels.h"
#include "kernels/cpu/simd/training_kernels.h"
#include "kernels/training.h"

namespace tq::cpu {

void cross_entropy(const CrossEntropyArgs& args, const FloatKernels& kernels, ThreadPool& threads);
void divergence(const DivergenceArgs& args, const FloatKernels& kernels, const TrainingKernels& loops, ThreadPool& threads);
void sample(const SampleArgs& args, const FloatKernels& kernels, ThreadPool& threads);

}  // namespace tq::cpu
