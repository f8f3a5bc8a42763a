#include "kernels/cpu/losses.h"

#include <algorithm>
#include <cmath>

namespace tq::cpu {
namespace {

struct Row {
  float largest;
  double sum;  // of exp(logit - largest)

  double log_sum() const { return largest + std::log(sum); }
};

Row measure(const float* logits, int64_t count) {
  Row row{*std::max_element(logits, logits + count), 0.0};
  constexpr int64_t kPart = 256;  // terms in (0, 1] that a float may sum
  for (int64_t i = 0; i < count; i += kPart) {
    float part = 0;
    for (int64_t j = i; j < std::min(count, i + kPart); ++j) part += std::exp(logits[j] - row.largest);
    row.sum += part;
  }
  return row;
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args, ThreadPool& threads) {
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
      const Row row = measure(logits, args.vocabulary);
      args.loss[t] = row.log_sum() - logits[label];
      const auto inverse = static_cast<float>(1.0 / row.sum);
      for (int64_t v = 0; v < args.vocabulary; ++v) gradient[v] = std::exp(logits[v] - row.largest) * inverse;
      gradient[label] -= 1.0f;
    }
  });
}

void divergence(const DivergenceArgs& args, ThreadPool& threads) {
  threads.run(args.tokens, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* logits = args.logits + t * args.vocabulary;
      const float* reference = args.reference + t * args.vocabulary;
      float* gradient = args.gradient + t * args.vocabulary;
      const Row q = measure(logits, args.vocabulary), p = measure(reference, args.vocabulary);
      const auto p_inverse = static_cast<float>(1.0 / p.sum), q_inverse = static_cast<float>(1.0 / q.sum);
      const double shift = q.log_sum() - p.log_sum();
      double loss = 0;
      for (int64_t v = 0; v < args.vocabulary; ++v) {
        const float p_v = std::exp(reference[v] - p.largest) * p_inverse;
        loss += p_v * (static_cast<double>(reference[v]) - logits[v] + shift);
        gradient[v] = std::exp(logits[v] - q.largest) * q_inverse - p_v;
      }
      args.loss[t] = loss;
    }
  });
}

void sample(const SampleArgs& args, ThreadPool& threads) {
  threads.run(static_cast<int64_t>(args.uniform.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* logits = args.logits + t * args.vocabulary;
      const Row row = measure(logits, args.vocabulary);
      const double wanted = args.uniform[static_cast<size_t>(t)] * row.sum;
      double sum = 0;
      int64_t label = 0;
      for (int64_t v = 0; v < args.vocabulary; ++v) {
        const float weight = std::exp(logits[v] - row.largest);
        if (weight > 0) label = v;  // rounding may leave the sum below what is wanted: then the last possible one
        if ((sum += weight) > wanted) break;
      }
      args.label[t] = static_cast<int32_t>(label);
    }
  });
}

}  // namespace tq::cpu
