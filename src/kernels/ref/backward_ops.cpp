#include "kernels/ref/backward_ops.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/kv_row.h"

namespace tq::ref {
namespace {

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

std::vector<double> softmax(const float* logits, int64_t count) {
  const double largest = *std::max_element(logits, logits + count);
  std::vector<double> p(static_cast<size_t>(count));
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += p[static_cast<size_t>(i)] = std::exp(logits[i] - largest);
  for (double& each : p) each /= sum;
  return p;
}

double log_sum(const float* logits, int64_t count) {
  const double largest = *std::max_element(logits, logits + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(logits[i] - largest);
  return largest + std::log(sum);
}

// What one query of one head needs of the forward pass.
struct Scores {
  int64_t begin = 0;              // first key that it sees
  std::vector<double> weight;     // softmax
  std::vector<double> cap_slope;  // of the softcap at each score; 1 without
};

const float* row_of(const float* base, int64_t token, int64_t stride, int64_t head, int64_t dim) {
  return base + token * stride + head * dim;
}

Scores scores_of(const AttendBackwardArgs& args, int64_t token, int64_t head, int64_t kv_head) {
  Scores out;
  out.begin = args.window > 0 ? std::max<int64_t>(0, token + 1 - args.window) : 0;
  const float* query = row_of(args.query, token, args.query_stride, head, args.head_dim);
  for (int64_t p = out.begin; p <= token; ++p) {
    double score = dot(query, row_of(args.key, p, args.key_stride, kv_head, args.head_dim), args.head_dim) * args.scale;
    const double bent = args.softcap > 0 ? std::tanh(score / args.softcap) : 0.0;
    if (args.softcap > 0) score = args.softcap * bent;
    out.weight.push_back(score);
    out.cap_slope.push_back(1.0 - bent * bent);
  }
  const double largest = *std::max_element(out.weight.begin(), out.weight.end());
  double sum = 0;
  for (double& each : out.weight) sum += each = std::exp(each - largest);
  for (double& each : out.weight) each /= sum;
  return out;
}

}  // namespace

void matmul_backward(const MatmulBackwardArgs& args) {
  std::vector<double> sum(static_cast<size_t>(args.columns));
  for (int64_t t = 0; t < args.tokens; ++t) {
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t r = 0; r < args.rows; ++r)
      for (int64_t k = 0; k < args.columns; ++k)
        sum[static_cast<size_t>(k)] += static_cast<double>(args.gradient[t * args.rows + r]) * args.weight[r * args.columns + k];
    for (int64_t k = 0; k < args.columns; ++k) {
      float& out = args.input_gradient[t * args.columns + k];
      out = static_cast<float>(sum[static_cast<size_t>(k)] + (args.accumulate ? out : 0.0f));
    }
  }
}

void weight_gradient(const WeightGradientArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r)
    for (int64_t k = 0; k < args.columns; ++k) {
      double sum = args.weight_gradient[r * args.columns + k];
      for (int64_t t = 0; t < args.tokens; ++t)
        sum += static_cast<double>(args.gradient[t * args.all_rows + args.first_row + r]) * args.input[t * args.columns + k];
      args.weight_gradient[r * args.columns + k] = static_cast<float>(sum);
    }
}

void norm_backward(const NormBackwardArgs& args) {
  std::vector<double> weight_sum(static_cast<size_t>(args.width));
  for (int64_t i = 0; i < args.count; ++i) {
    const float* x = args.input + i * args.width;
    const float* g = args.gradient + i * args.width;
    const auto width = static_cast<double>(args.width);
    const double r = 1.0 / std::sqrt(dot(x, x, args.width) / width + args.epsilon);
    double along = 0;  // sum(g w x)
    for (int64_t k = 0; k < args.width; ++k) {
      along += static_cast<double>(g[k]) * (args.weight[k] + args.offset) * x[k];
      weight_sum[static_cast<size_t>(k)] += static_cast<double>(g[k]) * x[k] * r;
    }
    for (int64_t k = 0; k < args.width; ++k)
      args.input_gradient[i * args.width + k] =
          static_cast<float>(r * g[k] * (args.weight[k] + args.offset) - x[k] * r * r * r / width * along);
  }
  if (!args.weight_gradient) return;
  for (int64_t k = 0; k < args.width; ++k) args.weight_gradient[k] += static_cast<float>(weight_sum[static_cast<size_t>(k)]);
}

void rotary_backward(const RotaryArgs& args) {
  const auto half = static_cast<int64_t>(args.inv_freq.size());
  for_rows(args.stretches, 0, tokens_of(args.stretches), [&](int64_t row, int64_t position, const Stretch&) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * args.inv_freq[static_cast<size_t>(i)];
      const auto cosine = static_cast<float>(std::cos(static_cast<double>(angle)) * args.magnitude);
      const auto sine = static_cast<float>(std::sin(static_cast<double>(angle)) * args.magnitude);
      for (int64_t h = 0; h < args.heads; ++h) {
        float* head = args.values + row * args.stride + h * args.head_dim;
        const float low = head[i], high = head[i + half];
        head[i] = low * cosine + high * sine;
        head[i + half] = high * cosine - low * sine;
      }
    }
  });
}

void attend_backward(const AttendBackwardArgs& args) {
  const int64_t dim = args.head_dim, group = args.heads / args.kv_heads;
  const auto count = static_cast<size_t>(args.tokens * args.kv_heads * dim);
  std::vector<double> key_sum(count), value_sum(count), query_sum(static_cast<size_t>(dim));
  for (int64_t t = 0; t < args.tokens; ++t)
    for (int64_t h = 0; h < args.heads; ++h) {
      const int64_t kv_head = h / group;
      const Scores scores = scores_of(args, t, h, kv_head);
      const float* g = args.gradient + (t * args.heads + h) * dim;
      const float* query = row_of(args.query, t, args.query_stride, h, dim);
      std::vector<double> weight_gradient_of(scores.weight.size());
      double mean = 0;  // of the weights' gradients under the weights
      for (size_t i = 0; i < scores.weight.size(); ++i) {
        const float* value = row_of(args.value, scores.begin + static_cast<int64_t>(i), args.key_stride, kv_head, dim);
        mean += scores.weight[i] * (weight_gradient_of[i] = dot(g, value, dim));
      }
      std::fill(query_sum.begin(), query_sum.end(), 0.0);
      for (size_t i = 0; i < scores.weight.size(); ++i) {
        const int64_t p = scores.begin + static_cast<int64_t>(i);
        const double slope = scores.weight[i] * (weight_gradient_of[i] - mean) * scores.cap_slope[i] * args.scale;
        const float* key = row_of(args.key, p, args.key_stride, kv_head, dim);
        const auto at = static_cast<size_t>((p * args.kv_heads + kv_head) * dim);
        for (size_t d = 0; d < static_cast<size_t>(dim); ++d) {
          query_sum[d] += slope * key[d];
          key_sum[at + d] += slope * query[d];
          value_sum[at + d] += scores.weight[i] * g[d];
        }
      }
      std::copy(query_sum.begin(), query_sum.end(), args.query_gradient + t * args.query_stride + h * dim);
    }
  for (int64_t t = 0; t < args.tokens; ++t)
    for (int64_t i = 0; i < args.kv_heads * dim; ++i) {
      const auto at = static_cast<size_t>(t * args.kv_heads * dim + i);
      args.key_gradient[t * args.key_stride + i] = static_cast<float>(key_sum[at]);
      args.value_gradient[t * args.key_stride + i] = static_cast<float>(value_sum[at]);
    }
}

double activation_derivative(GateKind kind, double x) {
  switch (kind) {
    case GateKind::kSilu: {
      const double sigmoid = 1.0 / (1.0 + std::exp(-x));
      return sigmoid * (1.0 + x * (1.0 - sigmoid));
    }
    case GateKind::kGeluTanh: {
      const double root = std::sqrt(2.0 / std::numbers::pi);
      const double bent = std::tanh(root * (x + 0.044715 * x * x * x));
      return 0.5 * (1.0 + bent) + 0.5 * x * (1.0 - bent * bent) * root * (1.0 + 3 * 0.044715 * x * x);
    }
    case GateKind::kGelu:
      return 0.5 * (1.0 + std::erf(x / std::numbers::sqrt2)) + x * std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);
  }
  TQ_CHECK(false);
}

namespace {

double activation(GateKind kind, double x) {
  switch (kind) {
    case GateKind::kSilu: return x / (1.0 + std::exp(-x));
    case GateKind::kGeluTanh: return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case GateKind::kGelu: return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
  }
  TQ_CHECK(false);
}

}  // namespace

void gated_backward(const GatedBackwardArgs& args) {
  for (int64_t t = 0; t < args.tokens; ++t)
    for (int64_t i = 0; i < args.width; ++i) {
      const int64_t at = t * args.stride + i;
      const double g = args.gradient[t * args.width + i], gate = args.gate[at], up = args.up[at];
      args.gate_gradient[at] = static_cast<float>(g * up * activation_derivative(args.kind, gate));
      args.up_gradient[at] = static_cast<float>(g * activation(args.kind, gate));
    }
}

void cross_entropy(const CrossEntropyArgs& args) {
  const int64_t count = args.vocabulary;
  for (size_t t = 0; t < args.labels.size(); ++t) {
    const float* logits = args.logits + static_cast<int64_t>(t) * count;
    float* gradient = args.gradient + static_cast<int64_t>(t) * count;
    const int32_t label = args.labels[t];
    args.loss[t] = label < 0 ? 0.0 : log_sum(logits, count) - logits[label];
    const std::vector<double> p = softmax(logits, count);
    for (int64_t v = 0; v < count; ++v)
      gradient[v] = label < 0 ? 0.0f : static_cast<float>(p[static_cast<size_t>(v)] - (v == label ? 1.0 : 0.0));
  }
}

void divergence(const DivergenceArgs& args) {
  const int64_t count = args.vocabulary;
  for (int64_t t = 0; t < args.tokens; ++t) {
    const float* logits = args.logits + t * count;
    const float* reference = args.reference + t * count;
    const std::vector<double> p = softmax(reference, count), q = softmax(logits, count);
    const double shift = log_sum(logits, count) - log_sum(reference, count);
    double loss = 0;
    for (int64_t v = 0; v < count; ++v) loss += p[static_cast<size_t>(v)] * (static_cast<double>(reference[v]) - logits[v] + shift);
    args.loss[t] = loss;
    for (int64_t v = 0; v < count; ++v)
      args.gradient[t * count + v] = static_cast<float>(q[static_cast<size_t>(v)] - p[static_cast<size_t>(v)]);
  }
}

void sample(const SampleArgs& args) {
  for (size_t t = 0; t < args.uniform.size(); ++t) {
    const std::vector<double> p = softmax(args.logits + static_cast<int64_t>(t) * args.vocabulary, args.vocabulary);
    double sum = 0;
    int64_t label = 0;
    for (int64_t v = 0; v < args.vocabulary; ++v) {
      if (p[static_cast<size_t>(v)] > 0) label = v;  // rounding may leave the sum below uniform: then the last possible one
      if ((sum += p[static_cast<size_t>(v)]) > args.uniform[t]) break;
    }
    args.label[t] = static_cast<int32_t>(label);
  }
}

}  // namespace tq::ref
