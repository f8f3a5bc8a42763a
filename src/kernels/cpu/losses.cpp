#include "kernels/cpu/losses.h"

#include <algorithm>
#include <cmath>

namespace tq::cpu {
namespace {

// A row of logits as exp(logit - largest).
struct Row {
  float largest;
  double sum;

  Row(const float* logits, int64_t count, const FloatKernels& kernels, float* exponentials)
      : largest(*std::max_element(logits, logits + count)), sum(kernels.exponentials(logits, largest, count, exponentials)) {}
  double log_sum() const { return largest + std::log(sum); }
  float inverse() const { return static_cast<float>(1.0 / sum); }
};

}  // namespace

void cross_entropy(const CrossEntropyArgs& args, const FloatKernels& kernels, ThreadPool& threads) {
  threads.run(static_cast<int64_t>(args.labels.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* logits = args.logits + t * args.vocabulary;
      float* gradient = args.gradient + t * args.vocabulary;
      const int32_t label = args.labels[static_cast<size_t>(t)];
      args.loss[t] = 0;
      if (label < 0) {
        std::fill_n(gradient, args.vocabulary, 0.0f);
        continue;
      }
      const float own = logits[label];  // the gradient may take the logits' place
      const Row row(logits, args.vocabulary, kernels, gradient);
      args.loss[t] = row.log_sum() - own;
      const float inverse = row.inverse();
      for (int64_t v = 0; v < args.vocabulary; ++v) gradient[v] *= inverse;
      gradient[label] -= 1.0f;
    }
  });
}

void divergence(const DivergenceArgs& args, const FloatKernels& kernels, const TrainingKernels& loops, ThreadPool& threads) {
  const int64_t count = args.vocabulary;
  auto memory = Buffer<float>::uninitialized(static_cast<size_t>(2 * count * threads.size()));
  threads.run(args.tokens, 1, [&](int64_t begin, int64_t end, int thread) {
    float* p_of = memory.data() + 2 * count * thread;
    float* q_of = p_of + count;
    for (int64_t t = begin; t < end; ++t) {
      const float* logits = args.logits + t * count;
      const float* reference = args.reference + t * count;
      float* gradient = args.gradient + t * count;
      const Row q(logits, count, kernels, q_of), p(reference, count, kernels, p_of);
      args.loss[t] = loops.divergence({.logits = logits,
                                       .reference = reference,
                                       .p = p_of,
                                       .q = q_of,
                                       .p_inverse = p.inverse(),
                                       .q_inverse = q.inverse(),
                                       .shift = q.log_sum() - p.log_sum(),
                                       .gradient = gradient},
                                      count);
    }
  });
}

void sample(const SampleArgs& args, const FloatKernels& kernels, ThreadPool& threads) {
  const int64_t count = args.vocabulary;
  auto memory = Buffer<float>::uninitialized(static_cast<size_t>(count * threads.size()));
  threads.run(static_cast<int64_t>(args.uniform.size()), 1, [&](int64_t begin, int64_t end, int thread) {
    float* weight = memory.data() + count * thread;
    for (int64_t t = begin; t < end; ++t) {
      const Row row(args.logits + t * count, count, kernels, weight);
      const double wanted = args.uniform[static_cast<size_t>(t)] * row.sum;
      double sum = 0;
      int64_t label = 0;
      for (int64_t v = 0; v < count; ++v) {
        if (weight[v] > 0) label = v;  // rounding may leave the sum below what is wanted: then the last possible one
        if ((sum += static_cast<double>(weight[v])) > wanted) break;
      }
      args.label[t] = static_cast<int32_t>(label);
    }
  });
}

}  // namespace tq::cpu
