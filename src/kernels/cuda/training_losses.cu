// Losses over the vocabulary: one thread block a row of logits, float exponentials, double sums.
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

struct Row {
  float largest;
  double sum;  // of exp(logit - largest)

  __device__ double log_sum() const { return largest + log(sum); }
};

__device__ Row measure(const float* logits, int count) {
  float own = -INFINITY;
  for (int v = static_cast<int>(threadIdx.x); v < count; v += kThreads) own = fmaxf(own, logits[v]);
  Row row{block_max<kThreads>(own), 0.0};
  double sum = 0;
  for (int v = static_cast<int>(threadIdx.x); v < count; v += kThreads) sum += expf(logits[v] - row.largest);
  row.sum = block_sum<kThreads>(sum);
  return row;
}

__global__ void __launch_bounds__(kThreads) cross_entropy_kernel(const CrossEntropy args) {
  launch_dependents();
  dependency_wait();
  const int64_t token = blockIdx.x, first = token * args.vocabulary;
  const float* logits = args.logits + first;
  float* gradient = args.gradient + first;
  const int label = args.label[token];
  const float of_label = label < 0 ? 0.0f : logits[label];  // before the gradient may overwrite it
  const Row row = measure(logits, args.vocabulary);
  const auto inverse = static_cast<float>(1.0 / row.sum);
  for (int v = static_cast<int>(threadIdx.x); v < args.vocabulary; v += kThreads)
    gradient[v] = label < 0 ? 0.0f : expf(logits[v] - row.largest) * inverse - (v == label ? 1.0f : 0.0f);
  if (threadIdx.x == 0) args.loss[token] = label < 0 ? 0.0 : row.log_sum() - of_label;
}

__global__ void __launch_bounds__(kThreads) divergence_kernel(const KlDivergence args) {
  launch_dependents();
  dependency_wait();
  const int64_t token = blockIdx.x, first = token * args.vocabulary;
  const float *logits = args.logits + first, *reference = args.reference + first;
  const Row q = measure(logits, args.vocabulary), p = measure(reference, args.vocabulary);
  const auto p_inverse = static_cast<float>(1.0 / p.sum), q_inverse = static_cast<float>(1.0 / q.sum);
  const double shift = q.log_sum() - p.log_sum();
  double own = 0;
  for (int v = static_cast<int>(threadIdx.x); v < args.vocabulary; v += kThreads) {
    const float p_v = expf(reference[v] - p.largest) * p_inverse;
    own += p_v * (static_cast<double>(reference[v]) - logits[v] + shift);
    args.gradient[first + v] = expf(logits[v] - q.largest) * q_inverse - p_v;
  }
  const double loss = block_sum<kThreads>(own);
  if (threadIdx.x == 0) args.loss[token] = loss;
}

// One warp: the last lane's value is the sum of all.
__device__ double running_sum(double value, int lane) {
  for (int step = 1; step < 32; step *= 2) {
    const double other = __shfl_up_sync(0xffffffffu, value, step);
    if (lane >= step) value += other;
  }
  return value;
}

// Every warp sums a stretch of the vocabulary; the stretch where the wanted sum is passed is then walked, 32 tokens at a time.
__global__ void __launch_bounds__(kThreads) sample_kernel(const Draws args) {
  launch_dependents();
  dependency_wait();
  __shared__ double stretch_sum[kWarps];
  __shared__ int last_possible[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const float* logits = args.logits + blockIdx.x * static_cast<int64_t>(args.vocabulary);
  const Row row = measure(logits, args.vocabulary);
  const int stretch = (args.vocabulary + kWarps - 1) / kWarps;
  const int begin = warp * stretch, end = min(args.vocabulary, begin + stretch);
  double own = 0;
  int last = -1;
  for (int v = begin + lane; v < end; v += 32) {
    const float weight = expf(logits[v] - row.largest);
    own += weight;
    if (weight > 0.0f) last = v;
  }
  for (int step = 16; step > 0; step /= 2) {
    own += __shfl_xor_sync(0xffffffffu, own, step);
    last = max(last, __shfl_xor_sync(0xffffffffu, last, step));
  }
  if (lane == 0) stretch_sum[warp] = own, last_possible[warp] = last;
  __syncthreads();
  if (warp > 0) return;
  const double wanted = args.uniform[blockIdx.x] * row.sum;
  double sum = 0;
  int chosen = 0, label = 0;
  for (int w = 0; w < kWarps; ++w)
    if (last_possible[w] >= 0) label = last_possible[w];  // rounding may leave the sum below what is wanted: then the last possible one
  while (chosen < kWarps - 1 && sum + stretch_sum[chosen] <= wanted) sum += stretch_sum[chosen++];
  for (int first = chosen * stretch; first < min(args.vocabulary, (chosen + 1) * stretch); first += 32) {
    const int v = first + lane;
    const double weight = v < min(args.vocabulary, (chosen + 1) * stretch) ? expf(logits[v] - row.largest) : 0.0f;
    const double until = sum + running_sum(weight, lane);
    const unsigned passed = __ballot_sync(0xffffffffu, until > wanted);
    if (passed) {
      label = first + __ffs(static_cast<int>(passed)) - 1;
      break;
    }
    sum = __shfl_sync(0xffffffffu, until, 31);
  }
  if (lane == 0) args.label[blockIdx.x] = label;
}

dim3 rows_grid(int64_t tokens) { return dim3(static_cast<unsigned>(tokens)); }

}  // namespace

void cross_entropy(const CrossEntropy& args, cudaStream_t stream) {
  launch(&cross_entropy_kernel, rows_grid(args.tokens), kThreads, 0, stream, args);
}
void divergence(const KlDivergence& args, cudaStream_t stream) {
  launch(&divergence_kernel, rows_grid(args.tokens), kThreads, 0, stream, args);
}
void sample(const Draws& args, cudaStream_t stream) { launch(&sample_kernel, rows_grid(args.tokens), kThreads, 0, stream, args); }

}  // namespace tq::cuda
