// Training, value by value.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

constexpr int kThreads = 256;

// function(i) for every i < count.
template <typename Function>
__global__ void __launch_bounds__(kThreads) each_kernel(int64_t count, const Function function) {
  launch_dependents();
  dependency_wait();
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i < count) function(i);
}

template <typename Function>
void each(int64_t count, const Function& function, cudaStream_t stream) {
  if (count == 0) return;
  launch(&each_kernel<Function>, dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), kThreads, 0, stream, count, function);
}

// The activation and its derivative.
struct Slope {
  float value, derivative;
};

__device__ Slope slope_of(int kind, float x) {
  if (kind == 0) {
    const float sigmoid = 1.0f / (1.0f + expf(-x));
    return {x * sigmoid, sigmoid * (1.0f + x * (1.0f - sigmoid))};
  }
  if (kind == 1) {
    constexpr float kRoot = 0.7978845608f;  // sqrt(2 / pi)
    const float bent = tanhf(kRoot * (x + 0.044715f * x * x * x));
    return {0.5f * x * (1.0f + bent), 0.5f * (1.0f + bent) + 0.5f * x * (1.0f - bent * bent) * kRoot * (1.0f + 0.134145f * x * x)};
  }
  const float half = 0.5f * (1.0f + erff(x * 0.70710678f));
  return {x * half, half + x * 0.3989422804f * expf(-0.5f * x * x)};  // 1 / sqrt(2 pi)
}

struct GatedValue {
  GatedBack args;
  __device__ void operator()(int64_t i) const {
    const int64_t at = i / args.width * args.stride + i % args.width;
    const float g = args.gradient[i], up = args.up[at];
    const Slope slope = slope_of(args.kind, args.gate[at]);
    args.gate_gradient[at] = g * up * slope.derivative;
    args.up_gradient[at] = g * slope.value;
  }
};

struct AdamValue {
  AdamStep args;
  __device__ void operator()(int64_t i) const {
    const float g = args.gradient_scale * args.gradient[i];
    const float first = args.beta1 * args.first[i] + (1.0f - args.beta1) * g;
    const float second = args.beta2 * args.second[i] + (1.0f - args.beta2) * g * g;
    args.first[i] = first, args.second[i] = second, args.gradient[i] = 0.0f;
    args.value[i] -= args.rate * (first * args.correct1) / (sqrtf(second * args.correct2) + args.epsilon);
  }
};

struct SoftcapValue {
  const float* output;
  float* gradient;
  float cap;
  __device__ void operator()(int64_t i) const {
    const float bent = output[i] / cap;
    gradient[i] *= 1.0f - bent * bent;
  }
};

struct RowValue {
  float* values;
  const float* factor;
  int64_t columns;
  __device__ void operator()(int64_t i) const { values[i] *= factor[i / columns]; }
};

struct Number {
  int32_t* values;
  int first;
  __device__ void operator()(int64_t i) const { values[i] = first + static_cast<int>(i); }
};

}  // namespace

void gated_back(const GatedBack& args, cudaStream_t stream) { each(args.tokens * args.width, GatedValue{args}, stream); }
void adam(const AdamStep& args, cudaStream_t stream) { each(args.count, AdamValue{args}, stream); }
void softcap_back(const float* output, float* gradient, int64_t count, float cap, cudaStream_t stream) {
  each(count, SoftcapValue{output, gradient, cap}, stream);
}
void scale_rows(float* values, const float* factor, int64_t count, int64_t columns, cudaStream_t stream) {
  each(count, RowValue{values, factor, columns}, stream);
}
void count_up(int32_t* values, int count, int first, cudaStream_t stream) { each(count, Number{values, first}, stream); }

}  // namespace tq::cuda
