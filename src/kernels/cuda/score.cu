// How well rows of logits predict, and how far they are from a reference's: a thread block a row, float exponentials, double sums.
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int kThreads = 512;

struct Row {
  float largest = -INFINITY;
  int top = 0;
  double log_sum = 0;  // log(sum exp)
};

__device__ Row measure(const float* logits, int count) {
  Row row;
  int at = count;
  for (int v = static_cast<int>(threadIdx.x); v < count; v += kThreads)
    if (logits[v] > row.largest) row.largest = logits[v], at = v;
  const float own = row.largest;
  row.largest = block_max<kThreads>(own);
  // Exact as floats up to 2^24, which no vocabulary has.
  row.top = static_cast<int>(-block_max<kThreads>(own == row.largest ? -static_cast<float>(at) : -static_cast<float>(count)));
  double sum = 0;
  for (int v = static_cast<int>(threadIdx.x); v < count; v += kThreads) sum += expf(logits[v] - row.largest);
  row.log_sum = row.largest + log(block_sum<kThreads>(sum));
  return row;
}

// grid (tokens)
__global__ void __launch_bounds__(kThreads) score_kernel(const Score args) {
  launch_dependents();
  dependency_wait();
  const int64_t token = blockIdx.x, first = token * args.vocabulary;
  const float* logits = args.logits + first;
  const Row row = measure(logits, args.vocabulary);
  const int next = args.next[token];
  ScoreOut out{.loss = row.log_sum - logits[next], .top = row.top};
  if (args.reference) {
    const float* reference = args.reference + first;
    const Row other = measure(reference, args.vocabulary);
    const double shift = row.log_sum - other.log_sum;
    const auto log_sum = static_cast<float>(other.log_sum);
    double own = 0;
    for (int v = static_cast<int>(threadIdx.x); v < args.vocabulary; v += kThreads)
      own += expf(reference[v] - log_sum) * (static_cast<double>(reference[v]) - logits[v] + shift);
    out.reference_loss = other.log_sum - reference[next], out.reference_top = other.top;
    out.divergence = block_sum<kThreads>(own);
  }
  if (threadIdx.x == 0) args.out[token] = out;
}

}  // namespace

void score(const Score& args, cudaStream_t stream) {
  launch(&score_kernel, dim3(static_cast<unsigned>(args.tokens)), kThreads, 0, stream, args);
}

}  // namespace tq::cuda
