// The scalar oracle of the training operations: each gradient as its formula reads, with double sums.
#pragma once

#include "kernels/training.h"

namespace tq::ref {

// input_gradient[T, C] (+)= gradient[T, R] · weight[R, C]
struct MatmulBackwardArgs {
  const float* weight = nullptr;    // [R, C]
  const float* gradient = nullptr;  // [T, R]
  float* input_gradient = nullptr;  // [T, C]
  int64_t tokens = 0, rows = 0, columns = 0;
  bool accumulate = false;
};
void matmul_backward(const MatmulBackwardArgs& args);
void weight_gradient(const WeightGradientArgs& args);
void norm_backward(const NormBackwardArgs& args);
void rotary_backward(const RotaryArgs& args);
void attend_backward(const AttendBackwardArgs& args);
double activation_derivative(GateKind kind, double x);
void gated_backward(const GatedBackwardArgs& args);
void cross_entropy(const CrossEntropyArgs& args);
void divergence(const DivergenceArgs& args);
void sample(const SampleArgs& args);

}  // namespace tq::ref
