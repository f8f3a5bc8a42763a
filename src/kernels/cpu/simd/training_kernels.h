// Loops of training of one instruction set, beside those of simd/kernels.h: the same source (training_simd.h) compiled three times.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "kernels/training.h"

namespace tq::cpu {

struct GatedBack {
  const float *gate, *up, *gradient;
  float *gate_gradient, *up_gradient;
};

struct AdamStep {
  float rate, beta1, beta2, correct1, correct2, epsilon, gradient_scale;
};

// A row of logits and of those of the reference, with the exponentials of each: p of the reference.
struct DivergenceRow {
  const float *logits, *reference, *p, *q;
  float p_inverse, q_inverse;  // of the sums of p and q
  double shift;                // between the logarithms of the sums
  float* gradient;             // q - p; may be logits or reference
};

struct TrainingKernels {
  void (*gated_back)(GateKind kind, const GatedBack& args, int64_t count);
  // gradient = 2 factor (output - target); gives the sum of the squared differences. gradient may be output or target.
  double (*squared_error)(const float* output, const float* target, float factor, float* gradient, int64_t count);
  // sum += a (b - c), c: null for 0
  void (*add_products)(double* sum, const float* a, const float* b, const float* c, int64_t count);
  void (*adam)(const AdamStep& step, float* value, float* gradient, float* first, float* second, int64_t count);
  double (*divergence)(const DivergenceRow& row, int64_t count);
};

const TrainingKernels& training_kernels(Isa isa);

}  // namespace tq::cpu
