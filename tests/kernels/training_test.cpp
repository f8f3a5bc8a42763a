// Every training operation of the oracle against finite differences of its forward operation in double precision, and the CPU's
// against the oracle's.
#include "kernels/training.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numbers>

#include "base/rng.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/ref/backward_ops.h"

namespace tq {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

Floats gaussian(int64_t count, uint64_t seed) {
  Rng rng(seed);
  Floats values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(rng.gaussian());
  return values;
}

// d/dx_i of sum(weight * function(x)) for every i, by central differences.
Doubles differences(const Floats& x, const Floats& weight, const std::function<Doubles(const Doubles&)>& function) {
  Doubles at(x.begin(), x.end()), out;
  const auto value = [&] {
    const Doubles y = function(at);
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += y[i] * weight[i];
    return sum;
  };
  for (double& each : at) {
    const double kept = each, step = 1e-6;
    each = kept + step;
    const double above = value();
    each = kept - step;
    out.push_back((above - value()) / (2 * step));
    each = kept;
  }
  return out;
}

void expect_near(const Floats& got, const Doubles& expected, double limit = 1e-5) {
  ASSERT_EQ(got.size(), expected.size());
  double largest = 0;
  for (const double each : expected) largest = std::max(largest, std::fabs(each));
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], limit * largest) << i;
}
void expect_near(const Floats& got, const Floats& expected, double limit = 1e-5) {
  expect_near(got, Doubles(expected.begin(), expected.end()), limit);
}

constexpr int64_t kCount = 3, kWidth = 10;

Doubles norm(const Doubles& x, const Doubles& weight) {
  Doubles out(x.size());
  for (size_t at = 0; at < x.size(); at += kWidth) {
    double squares = 0;
    for (size_t k = 0; k < kWidth; ++k) squares += x[at + k] * x[at + k];
    for (size_t k = 0; k < kWidth; ++k) out[at + k] = x[at + k] / std::sqrt(squares / kWidth + 0.01f) * (weight[k] + 1.0);
  }
  return out;
}

TEST(NormBackward, IsTheDerivativeByInputAndWeight) {
  const Floats x = gaussian(kCount * kWidth, 1), weight = gaussian(kWidth, 2), g = gaussian(kCount * kWidth, 3);
  Floats dx(x.size()), dw(weight.size());
  ref::norm_backward({x.data(), weight.data(), g.data(), dx.data(), dw.data(), kCount, kWidth, 0.01f, 1.0f});
  const Doubles xd(x.begin(), x.end()), wd(weight.begin(), weight.end());
  expect_near(dx, differences(x, g, [&](const Doubles& at) { return norm(at, wd); }));
  expect_near(dw, differences(weight, g, [&](const Doubles& at) { return norm(xd, at); }));
}

TEST(MatmulBackward, IsTheDerivativeByInputAndWeight) {
  constexpr int64_t kRows = 4;
  const Floats x = gaussian(kCount * kWidth, 1), weight = gaussian(kRows * kWidth, 2), g = gaussian(kCount * kRows, 3);
  const auto product = [&](const auto& input, const auto& matrix) {
    Doubles out;
    for (size_t t = 0; t < kCount; ++t)
      for (size_t r = 0; r < kRows; ++r) {
        out.push_back(0);
        for (size_t k = 0; k < kWidth; ++k) out.back() += static_cast<double>(input[t * kWidth + k]) * matrix[r * kWidth + k];
      }
    return out;
  };
  Floats dx(x.size(), 5.0f), dw(weight.size());
  ref::matmul_backward({weight.data(), g.data(), dx.data(), kCount, kRows, kWidth, false});
  expect_near(dx, differences(x, g, [&](const Doubles& at) { return product(at, weight); }));
  const Doubles expected = differences(weight, g, [&](const Doubles& at) { return product(x, at); });
  for (const int64_t first : {0, 3})  // in two bands
    ref::weight_gradient({x.data(), g.data(), dw.data() + first * kWidth, kCount, kWidth, kRows, first, first == 0 ? 3 : 1});
  expect_near(dw, expected);
  ref::weight_gradient({x.data(), g.data(), dw.data(), kCount, kWidth, kRows, 0, kRows});
  for (size_t i = 0; i < dw.size(); ++i) EXPECT_NEAR(dw[i], 2 * expected[i], 1e-4);
}

TEST(RotaryBackward, IsTheTransposeOfTheRotation) {
  const Floats inv_freq = {1.0f, 0.1f, 0.01f};  // head_dim 8: two dimensions are not rotated
  const Floats x = gaussian(2 * 3 * 8, 1), g = gaussian(2 * 3 * 8, 2);
  Floats dx = g;
  const Stretch stretch{.tokens = 2, .first_position = 7};
  ref::rotary_backward({dx.data(), {&stretch, 1}, 3, 8, 24, inv_freq, 1.3f});
  expect_near(dx, differences(x, g, [&](const Doubles& at) {
                Doubles out = at;
                for (size_t i = 0; i < 48; ++i) {
                  const size_t d = i % 8;
                  if (d >= 6) continue;
                  const double angle = (7.0f + static_cast<float>(i / 24)) * inv_freq[d % 3];
                  out[i] = 1.3f * (d < 3 ? at[i] * std::cos(angle) - at[i + 3] * std::sin(angle)
                                         : at[i] * std::cos(angle) + at[i - 3] * std::sin(angle));
                }
                return out;
              }));
}

struct AttentionShape {
  int64_t tokens, heads, kv_heads, head_dim, window;
  float softcap;
};

// Query, key and value one after another, as one vector.
Doubles attention(const AttentionShape& s, const Doubles& at) {
  const auto key = static_cast<size_t>(s.tokens * s.heads * s.head_dim),
             value = key + static_cast<size_t>(s.tokens * s.kv_heads * s.head_dim);
  const auto dim = static_cast<size_t>(s.head_dim);
  Doubles out(key);
  for (int64_t t = 0; t < s.tokens; ++t)
    for (int64_t h = 0; h < s.heads; ++h) {
      const auto own = static_cast<size_t>((t * s.heads + h) * s.head_dim);
      const auto other = [&](int64_t p) { return static_cast<size_t>((p * s.kv_heads + h / (s.heads / s.kv_heads)) * s.head_dim); };
      Doubles weight;
      double sum = 0;
      const int64_t begin = s.window > 0 ? std::max<int64_t>(0, t + 1 - s.window) : 0;
      for (int64_t p = begin; p <= t; ++p) {
        double score = 0;
        for (size_t d = 0; d < dim; ++d) score += 0.5 * at[own + d] * at[key + other(p) + d];
        if (s.softcap > 0) score = s.softcap * std::tanh(score / s.softcap);
        weight.push_back(std::exp(score));
        sum += weight.back();
      }
      for (int64_t p = begin; p <= t; ++p)
        for (size_t d = 0; d < dim; ++d) out[own + d] += weight[static_cast<size_t>(p - begin)] / sum * at[value + other(p) + d];
    }
  return out;
}

// Gradients in the order of attention()'s argument, through any Training.
Floats attention_gradient(const AttentionShape& s, const Floats& x, const Floats& g, Training& training) {
  const auto key = static_cast<size_t>(s.tokens * s.heads * s.head_dim),
             value = key + static_cast<size_t>(s.tokens * s.kv_heads * s.head_dim);
  Floats dx(x.size(), 3.0f);
  training.attend({.query = x.data(),
                   .key = x.data() + key,
                   .value = x.data() + value,
                   .gradient = g.data(),
                   .query_gradient = dx.data(),
                   .key_gradient = dx.data() + key,
                   .value_gradient = dx.data() + value,
                   .tokens = s.tokens,
                   .heads = s.heads,
                   .kv_heads = s.kv_heads,
                   .head_dim = s.head_dim,
                   .query_stride = s.heads * s.head_dim,
                   .key_stride = s.kv_heads * s.head_dim,
                   .window = s.window,
                   .scale = 0.5f,
                   .softcap = s.softcap});
  return dx;
}

struct Inputs {
  explicit Inputs(const AttentionShape& s)
      : x(gaussian(s.tokens * (s.heads + 2 * s.kv_heads) * s.head_dim, 1)), g(gaussian(s.tokens * s.heads * s.head_dim, 2)) {}
  Floats x, g;
};

TEST(AttendBackward, IsTheDerivativeByQueryKeyAndValue) {
  ThreadPool threads(1);
  const auto backend = make_ref_backend(threads);
  for (const AttentionShape& s : {AttentionShape{6, 1, 1, 4, 0, 0}, AttentionShape{6, 4, 2, 3, 0, 0}, AttentionShape{7, 2, 1, 4, 3, 0},
                                  AttentionShape{6, 4, 2, 4, 4, 0.7f}}) {
    const Inputs in(s);
    expect_near(attention_gradient(s, in.x, in.g, *backend->training()),
                differences(in.x, in.g, [&](const Doubles& at) { return attention(s, at); }));
  }
}

TEST(AttendBackward, OnTheCpuIsTheOraclesAcrossBlocksOfQueries) {
  ThreadPool threads(2);
  const auto backend = make_ref_backend(threads);
  for (const AttentionShape& s : {AttentionShape{150, 4, 2, 24, 0, 0}, AttentionShape{300, 2, 1, 17, 100, 0},
                                  AttentionShape{140, 2, 2, 32, 7, 1.5f}, AttentionShape{1, 2, 1, 8, 0, 0}}) {
    const Inputs in(s);
    const Floats expected = attention_gradient(s, in.x, in.g, *backend->training());
    for (const Isa isa : supported_isas())
      expect_near(attention_gradient(s, in.x, in.g, *make_cpu_backend(threads, isa)->training()), expected, 2e-5);
  }
}

TEST(GatedBackward, IsTheDerivativeByGateAndUpForEveryActivation) {
  ThreadPool threads(2);
  const auto ref_backend = make_ref_backend(threads), cpu = make_cpu_backend(threads, best_isa());
  const Floats x = gaussian(2 * 12, 1), g = gaussian(12, 2);  // rows of 3 gates, then 3 ups: stride 6
  for (const GateKind kind : {GateKind::kSilu, GateKind::kGeluTanh, GateKind::kGelu}) {
    const auto activate = [&](double z) {
      if (kind == GateKind::kSilu) return z / (1 + std::exp(-z));
      if (kind == GateKind::kGelu) return 0.5 * z * (1 + std::erf(z / std::numbers::sqrt2));
      return 0.5 * z * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (z + 0.044715 * z * z * z)));
    };
    const Doubles expected = differences(x, g, [&](const Doubles& at) {
      Doubles out;
      for (size_t t = 0; t < 4; ++t)
        for (size_t i = 0; i < 3; ++i) out.push_back(activate(at[t * 6 + i]) * at[t * 6 + 3 + i]);
      return out;
    });
    for (Backend* backend : {ref_backend.get(), cpu.get()}) {
      Floats dx(x.size());
      backend->training()->gated({kind, x.data(), x.data() + 3, g.data(), dx.data(), dx.data() + 3, 4, 3, 6});
      expect_near(dx, expected);
    }
  }
}

constexpr int64_t kVocabulary = 7;

Doubles log_softmax(const Doubles& logits) {
  Doubles out = logits;
  for (size_t at = 0; at < out.size(); at += kVocabulary) {
    double sum = 0;
    for (size_t v = 0; v < kVocabulary; ++v) sum += std::exp(logits[at + v]);
    for (size_t v = 0; v < kVocabulary; ++v) out[at + v] -= std::log(sum);
  }
  return out;
}

TEST(CrossEntropy, IsTheLogLossWithItsDerivativeAndIgnoresMissingLabels) {
  ThreadPool threads(2);
  const auto ref_backend = make_ref_backend(threads), cpu = make_cpu_backend(threads, best_isa());
  const Floats logits = gaussian(3 * kVocabulary, 4);
  const std::vector<int32_t> labels = {2, -1, 6};
  const auto loss = [&](const Doubles& at) {
    const Doubles log_p = log_softmax(at);
    return Doubles{-log_p[2], -log_p[2 * kVocabulary + 6]};
  };
  for (Backend* backend : {ref_backend.get(), cpu.get()}) {
    Floats gradient(logits.size());
    Doubles losses(3);
    backend->training()->cross_entropy({logits.data(), labels, gradient.data(), losses.data(), kVocabulary});
    expect_near(gradient, differences(logits, {1, 1}, loss));
    const Doubles expected = loss({logits.begin(), logits.end()});
    EXPECT_NEAR(losses[0], expected[0], 1e-6);
    EXPECT_EQ(losses[1], 0.0);
    EXPECT_NEAR(losses[2], expected[1], 1e-6);
  }
}

TEST(Divergence, IsKlFromTheReferenceWithItsDerivative) {
  ThreadPool threads(2);
  const auto ref_backend = make_ref_backend(threads), cpu = make_cpu_backend(threads, best_isa());
  const Floats logits = gaussian(2 * kVocabulary, 4), reference = gaussian(2 * kVocabulary, 5);
  const Doubles log_p = log_softmax({reference.begin(), reference.end()});
  const auto loss = [&](const Doubles& at) {
    const Doubles log_q = log_softmax(at);
    Doubles out(2);
    for (size_t i = 0; i < log_q.size(); ++i) out[i / kVocabulary] += std::exp(log_p[i]) * (log_p[i] - log_q[i]);
    return out;
  };
  for (Backend* backend : {ref_backend.get(), cpu.get()}) {
    Floats gradient(logits.size());
    Doubles losses(2);
    backend->training()->divergence({logits.data(), reference.data(), gradient.data(), losses.data(), 2, kVocabulary});
    expect_near(gradient, differences(logits, {1, 1}, loss));
    const Doubles expected = loss({logits.begin(), logits.end()});
    for (size_t t = 0; t < 2; ++t) EXPECT_NEAR(losses[t], expected[t], 1e-6);
  }
}

TEST(Sample, DrawsEveryTokenAsOftenAsItIsProbable) {
  ThreadPool threads(2);
  const auto ref_backend = make_ref_backend(threads), cpu = make_cpu_backend(threads, best_isa());
  constexpr size_t kDraws = 4000;
  const Floats row = gaussian(kVocabulary, 6);
  Floats logits;
  Doubles uniform;
  for (size_t i = 0; i < kDraws; ++i) {
    logits.insert(logits.end(), row.begin(), row.end());
    uniform.push_back((static_cast<double>(i) + 0.5) / kDraws);
  }
  const Doubles log_p = log_softmax({row.begin(), row.end()});
  for (Backend* backend : {ref_backend.get(), cpu.get()}) {
    std::vector<int32_t> labels(kDraws);
    backend->training()->sample({logits.data(), uniform, labels.data(), kVocabulary});
    Doubles frequency(kVocabulary);
    for (const int32_t label : labels) frequency[static_cast<size_t>(label)] += 1.0 / kDraws;
    for (size_t v = 0; v < kVocabulary; ++v) EXPECT_NEAR(frequency[v], std::exp(log_p[v]), 1e-3);
  }
}

}  // namespace
}  // namespace tq
