// Include after kernels_simd.h.
#pragma once

#include "kernels/cpu/simd/training_kernels.h"

namespace tq::cpu {
namespace {

using Doubles = double __attribute__((vector_size(TQ_SIMD_WIDTH * 8)));

inline double sum_lanes(const Doubles& v) {
  double sum = 0;
  for (int64_t i = 0; i < kWidth; ++i) sum += v[i];
  return sum;
}

// The activation and its derivative.
template <GateKind kKind>
inline void slope_of(Vector x, Vector& value, Vector& derivative) {
  if constexpr (kKind == GateKind::kSilu) {
    const Vector sigmoid = 1.0f / (1.0f + exp_of(-x));
    value = x * sigmoid, derivative = sigmoid * (1.0f + x * (1.0f - sigmoid));
  } else if constexpr (kKind == GateKind::kGeluTanh) {
    constexpr float kRoot = 0.7978845608f;  // sqrt(2 / pi)
    const Vector bent = tanh_of((x + x * x * x * 0.044715f) * kRoot);
    value = x * 0.5f * (1.0f + bent);
    derivative = 0.5f * (1.0f + bent) + x * 0.5f * (1.0f - bent * bent) * kRoot * (1.0f + x * x * 0.134145f);
  } else {
    for (int64_t i = 0; i < kWidth; ++i) {
      const float half = 0.5f * (1.0f + std::erf(x[i] * 0.70710678f));
      value[i] = x[i] * half, derivative[i] = half + x[i] * 0.3989422804f * std::exp(-0.5f * x[i] * x[i]);  // 1 / sqrt(2 pi)
    }
  }
}

template <GateKind kKind>
inline void gated_back_vector(const GatedBack& args) {
  Vector value, derivative;
  const Vector up = load(args.up), gradient = load(args.gradient);
  slope_of<kKind>(load(args.gate), value, derivative);
  store(args.gate_gradient, gradient * up * derivative);
  store(args.up_gradient, gradient * value);
}

template <GateKind kKind>
void gated_back_of(const GatedBack& args, int64_t count) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth)
    gated_back_vector<kKind>({args.gate + i, args.up + i, args.gradient + i, args.gate_gradient + i, args.up_gradient + i});
  if (i == count) return;
  float g[kWidth] = {}, u[kWidth] = {}, d[kWidth] = {}, to_gate[kWidth], to_up[kWidth];
  std::copy(args.gate + i, args.gate + count, g);
  std::copy(args.up + i, args.up + count, u);
  std::copy(args.gradient + i, args.gradient + count, d);
  gated_back_vector<kKind>({g, u, d, to_gate, to_up});
  std::copy(to_gate, to_gate + (count - i), args.gate_gradient + i);
  std::copy(to_up, to_up + (count - i), args.up_gradient + i);
}

void gated_back(GateKind kind, const GatedBack& args, int64_t count) {
  switch (kind) {
    case GateKind::kSilu: return gated_back_of<GateKind::kSilu>(args, count);
    case GateKind::kGeluTanh: return gated_back_of<GateKind::kGeluTanh>(args, count);
    case GateKind::kGelu: return gated_back_of<GateKind::kGelu>(args, count);
  }
}

double squared_error(const float* output, const float* target, float factor, float* gradient, int64_t count) {
  Doubles sums = {};
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Vector difference = load(output + i) - load(target + i);
    const Doubles wide = __builtin_convertvector(difference, Doubles);
    sums += wide * wide;
    store(gradient + i, difference * (2.0f * factor));
  }
  double sum = sum_lanes(sums);
  for (; i < count; ++i) {
    const float difference = output[i] - target[i];
    sum += static_cast<double>(difference) * difference;
    gradient[i] = 2.0f * factor * difference;
  }
  return sum;
}

void add_products(double* __restrict sum, const float* a, const float* b, const float* c, int64_t count) {
  if (c)
    for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<double>(a[i]) * (static_cast<double>(b[i]) - static_cast<double>(c[i]));
  else
    for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
}

void adam(const AdamStep& step, float* __restrict value, float* __restrict gradient, float* __restrict first, float* __restrict second,
          int64_t count) {
  const AdamStep s = step;
  for (int64_t i = 0; i < count; ++i) {
    const float g = s.gradient_scale * gradient[i];
    first[i] = s.beta1 * first[i] + (1.0f - s.beta1) * g;
    second[i] = s.beta2 * second[i] + (1.0f - s.beta2) * g * g;
    value[i] -= s.rate * (first[i] * s.correct1) / (std::sqrt(second[i] * s.correct2) + s.epsilon);
    gradient[i] = 0.0f;
  }
}

double divergence(const DivergenceRow& row, int64_t count) {
  Doubles losses = {};
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Vector p = load(row.p + i) * row.p_inverse, logits = load(row.logits + i), reference = load(row.reference + i);
    const Doubles apart = __builtin_convertvector(reference, Doubles) - __builtin_convertvector(logits, Doubles) + row.shift;
    losses += __builtin_convertvector(p, Doubles) * apart;
    store(row.gradient + i, load(row.q + i) * row.q_inverse - p);
  }
  double loss = sum_lanes(losses);
  for (; i < count; ++i) {
    const float p = row.p[i] * row.p_inverse;
    loss += static_cast<double>(p) * (static_cast<double>(row.reference[i]) - static_cast<double>(row.logits[i]) + row.shift);
    row.gradient[i] = row.q[i] * row.q_inverse - p;
  }
  return loss;
}

constexpr TrainingKernels kTrainingTable = {gated_back, squared_error, add_products, adam, divergence};

}  // namespace
}  // namespace tq::cpu
