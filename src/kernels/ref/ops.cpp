#include "kernels/ref/ops.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "base/check.h"

namespace tq::ref {
namespace {

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// Scores of one query over keys [begin, end), turned into weights that sum to 1.
void softmax(std::vector<double>& scores) {
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (double& score : scores) score /= sum;
}

}  // namespace

void matmul(const MatmulArgs& args) {
  for (int64_t t = 0; t < args.tokens; ++t) {
    for (int64_t r = 0; r < args.rows; ++r) {
      const double sum = dot(args.input + t * args.columns, args.weight + r * args.columns, args.columns);
      args.output[t * args.rows + r] = static_cast<float>(sum + (args.bias ? args.bias[r] : 0.0f));
    }
  }
}

void rms_norm(const RmsNormArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) {
    const float* input = args.input + i * args.width;
    const double mean = dot(input, input, args.width) / static_cast<double>(args.width);
    const auto scale = static_cast<float>(1.0 / std::sqrt(mean + args.epsilon));
    for (int64_t k = 0; k < args.width; ++k) args.output[i * args.width + k] = input[k] * scale * (args.weight[k] + args.offset);
  }
}

void rope(const RopeArgs& args) {
  const auto half = static_cast<int64_t>(args.inv_freq.size());
  TQ_CHECK(2 * half <= args.head_dim);
  for (int64_t t = 0; t < args.tokens; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      // The angle is a float product, as in the published models; its error at long contexts is part of what they were trained with.
      const float angle = static_cast<float>(args.first_position + t) * args.inv_freq[static_cast<size_t>(i)];
      const auto cosine = static_cast<float>(std::cos(static_cast<double>(angle)) * args.magnitude);
      const auto sine = static_cast<float>(std::sin(static_cast<double>(angle)) * args.magnitude);
      for (int64_t h = 0; h < args.heads; ++h) {
        float* head = args.values + (t * args.heads + h) * args.head_dim;
        const float low = head[i], high = head[i + half];
        head[i] = low * cosine - high * sine;
        head[i + half] = high * cosine + low * sine;
      }
    }
  }
}

void attention(const AttentionArgs& args) {
  TQ_CHECK(args.kv_heads > 0 && args.heads % args.kv_heads == 0);
  const int64_t group = args.heads / args.kv_heads;
  std::vector<double> scores;
  std::vector<double> sum(static_cast<size_t>(args.head_dim));
  for (int64_t t = 0; t < args.tokens; ++t) {
    const int64_t end = args.past + t + 1;
    const int64_t begin = args.window > 0 ? std::max<int64_t>(0, end - args.window) : 0;
    for (int64_t h = 0; h < args.heads; ++h) {
      const float* query = args.query + (t * args.heads + h) * args.head_dim;
      const auto cached = [&](const float* base, int64_t position) {
        return base + (position * args.kv_heads + h / group) * args.head_dim;
      };
      scores.assign(static_cast<size_t>(end - begin), 0.0);
      for (int64_t p = begin; p < end; ++p) {
        const double score = dot(query, cached(args.key, p), args.head_dim) * args.scale;
        scores[static_cast<size_t>(p - begin)] = args.softcap > 0 ? args.softcap * std::tanh(score / args.softcap) : score;
      }
      softmax(scores);
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int64_t p = begin; p < end; ++p)
        for (int64_t d = 0; d < args.head_dim; ++d)
          sum[static_cast<size_t>(d)] += scores[static_cast<size_t>(p - begin)] * cached(args.value, p)[d];
      for (int64_t d = 0; d < args.head_dim; ++d)
        args.output[(t * args.heads + h) * args.head_dim + d] = static_cast<float>(sum[static_cast<size_t>(d)]);
    }
  }
}

float activate(Gate gate, float x) {
  const double value = x;
  switch (gate) {
    case Gate::kSilu: return static_cast<float>(value / (1.0 + std::exp(-value)));
    case Gate::kGeluTanh:
      return static_cast<float>(0.5 * value *
                                (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (value + 0.044715 * value * value * value))));
    case Gate::kGelu: return static_cast<float>(0.5 * value * (1.0 + std::erf(value / std::numbers::sqrt2)));
  }
  TQ_CHECK(false);
}

void gated(Gate kind, std::span<const float> gate, std::span<const float> up, std::span<float> output) {
  TQ_CHECK(gate.size() == up.size() && gate.size() == output.size());
  for (size_t i = 0; i < gate.size(); ++i) output[i] = activate(kind, gate[i]) * up[i];
}

}  // namespace tq::ref
