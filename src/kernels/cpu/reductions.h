// What training does on the CPU beside the gradients of the model's operations: sums over gradients, losses, steps. Every sum goes over
// parts of fixed size in a fixed order.
#pragma once

#include "base/thread_pool.h"
#include "kernels/cpu/simd/kernels.h"
#include "kernels/cpu/simd/training_kernels.h"
#include "kernels/training.h"

namespace tq::cpu {

void squared_error(const SquaredErrorArgs& args, const TrainingKernels& loops, ThreadPool& threads);
void softcap_backward(const SoftcapBackwardArgs& args, ThreadPool& threads);
void scale_rows(const ScaleRowsArgs& args, ThreadPool& threads);
void row_scale_gradient(const RowScaleGradientArgs& args, const TrainingKernels& loops, ThreadPool& threads);
void column_sum(const ColumnSumArgs& args, ThreadPool& threads);
void squares(const SquaresArgs& args, ThreadPool& threads);
void adam(const AdamArgs& args, const TrainingKernels& loops, ThreadPool& threads);
double dot(const float* a, const float* b, int64_t count, const FloatKernels& kernels, ThreadPool& threads);

}  // namespace tq::cpu
