// The scalar oracle of what training does beside the gradients of the model's operations: sums over gradients, losses, steps. Double sums.
#pragma once

#include "kernels/training.h"

namespace tq::ref {

void squared_error(const SquaredErrorArgs& args);
void softcap_backward(const SoftcapBackwardArgs& args);
void scale_rows(const ScaleRowsArgs& args);
void row_scale_gradient(const RowScaleGradientArgs& args);
void column_sum(const ColumnSumArgs& args);
void product(const DenseProductArgs& args);
bool solve(const SolveArgs& args);  // in double
void squares(const SquaresArgs& args);
void adam(const AdamArgs& args);
double dot(const float* a, const float* b, int64_t count);

}  // namespace tq::ref
