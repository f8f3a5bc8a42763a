// The forward pass of a ModelSpec in double precision, as its definition reads: what finite differences are taken of.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <numeric>

#include "artifact/model.h"

namespace tq::graph_test {

using Values = std::vector<double>;

class DoubleModel {
 public:
  explicit DoubleModel(const Model& model) : spec_(model.spec) {
    for (const std::string& name : tensor_names(model.spec)) {
      const Buffer<float> values = decode(*model.find(name));
      weights[name] = Values(values.begin(), values.end());
    }
  }

  // The sum over t < T - 1 of -log p(tokens[t + 1]).
  double loss(const std::vector<int32_t>& tokens) const {
    const auto count = static_cast<int64_t>(tokens.size());
    Values hidden;
    for (const int32_t token : tokens)
      for (int64_t i = 0; i < spec_.hidden; ++i)
        hidden.push_back(weights.at(spec_.embedding + ".weight")[static_cast<size_t>(token * spec_.hidden + i)] * spec_.embed_scale);
    for (const auto& layer : spec_.layers)
      for (const Block& block : layer) {
        Values result = std::visit([&](const auto& op) { return run(op, norm(block.pre, hidden)); }, block.op);
        if (block.post) result = norm(*block.post, result);
        for (size_t i = 0; i < hidden.size(); ++i) hidden[i] += result[i];
      }
    const Values logits = linear(spec_.head, norm(spec_.final_norm, hidden));
    double total = 0;
    for (int64_t t = 0; t + 1 < count; ++t) {
      Values row(logits.begin() + t * spec_.vocabulary, logits.begin() + (t + 1) * spec_.vocabulary);
      if (spec_.final_softcap > 0)
        for (double& x : row) x = spec_.final_softcap * std::tanh(x / spec_.final_softcap);
      const double label = row[static_cast<size_t>(tokens[static_cast<size_t>(t + 1)])];
      const double largest = *std::max_element(row.begin(), row.end());
      double sum = 0;
      for (const double x : row) sum += std::exp(x - largest);
      total += largest + std::log(sum) - label;
    }
    return total;
  }

  std::map<std::string, Values> weights;  // by tensor name; may be changed

 private:
  Values norm(const Norm& norm, const Values& input) const {
    const Values& weight = weights.at(norm.name + ".weight");
    const auto width = static_cast<size_t>(norm.width);
    Values out(input.size());
    for (size_t at = 0; at < input.size(); at += width) {
      double squares = 0;
      for (size_t k = 0; k < width; ++k) squares += input[at + k] * input[at + k];
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + norm.epsilon);
      for (size_t k = 0; k < width; ++k) out[at + k] = input[at + k] * scale * (weight[k] + spec_.norm_offset);
    }
    return out;
  }

  Values linear(const Linear& linear, const Values& input, int64_t expert = 0) const {
    const Values& weight = weights.at(linear.name + ".weight");
    const auto in = static_cast<size_t>(linear.in), out = static_cast<size_t>(linear.out);
    const double* first = weight.data() + static_cast<size_t>(expert) * in * out;
    Values result;
    for (size_t t = 0; t < input.size() / in; ++t)
      for (size_t r = 0; r < out; ++r) {
        const double bias = linear.bias ? weights.at(linear.name + ".bias")[r] : 0.0;
        result.push_back(std::inner_product(first + r * in, first + (r + 1) * in, input.data() + t * in, bias));
      }
    return result;
  }

  void rotate(const Attention& op, Values& heads, int64_t tokens) const {
    const bool is_long = !op.rope.long_inv_freq.empty() && tokens > op.rope.original_context;
    const std::vector<float>& inv_freq = is_long ? op.rope.long_inv_freq : op.rope.inv_freq;
    const auto dim = static_cast<size_t>(op.head_dim), half = inv_freq.size();
    const size_t per_token = heads.size() / static_cast<size_t>(tokens);
    for (size_t at = 0; at < heads.size(); at += dim) {
      const auto token = static_cast<float>(at / per_token);
      for (size_t i = 0; i < half; ++i) {
        const double angle = token * inv_freq[i];  // the angle is a float, as in the published models
        const double low = heads[at + i], high = heads[at + i + half];
        heads[at + i] = (low * std::cos(angle) - high * std::sin(angle)) * op.rope.magnitude;
        heads[at + i + half] = (high * std::cos(angle) + low * std::sin(angle)) * op.rope.magnitude;
      }
    }
  }

  Values run(const Attention& op, const Values& input) const {
    const auto tokens = static_cast<int64_t>(input.size()) / spec_.hidden;
    Values query, key, value;
    if (op.qkv.size() == 1) {
      const Values fused = linear(op.qkv[0], input);
      const int64_t q = op.heads * op.head_dim, kv = op.kv_heads * op.head_dim;
      for (int64_t t = 0; t < tokens; ++t) {
        const auto row = fused.begin() + t * (q + 2 * kv);
        query.insert(query.end(), row, row + q);
        key.insert(key.end(), row + q, row + q + kv);
        value.insert(value.end(), row + q + kv, row + q + 2 * kv);
      }
    } else {
      query = linear(op.qkv[0], input), key = linear(op.qkv[1], input), value = linear(op.qkv[2], input);
    }
    if (op.query_norm) query = norm(*op.query_norm, query);
    if (op.key_norm) key = norm(*op.key_norm, key);
    rotate(op, query, tokens), rotate(op, key, tokens);
    Values mixed(static_cast<size_t>(tokens * op.heads * op.head_dim));
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < op.heads; ++h) mix(op, query, key, value, t, h, mixed);
    return linear(op.output, mixed);
  }

  static void mix(const Attention& op, const Values& query, const Values& key, const Values& value, int64_t t, int64_t h, Values& mixed) {
    const int64_t dim = op.head_dim, kv_head = h / (op.heads / op.kv_heads);
    const auto own = static_cast<size_t>((t * op.heads + h) * dim);
    const auto other = [&](int64_t p) { return static_cast<size_t>((p * op.kv_heads + kv_head) * dim); };
    const int64_t begin = op.window > 0 ? std::max<int64_t>(0, t + 1 - op.window) : 0;
    Values scores;
    double sum = 0;
    for (int64_t p = begin; p <= t; ++p) {
      double score = 0;
      for (size_t d = 0; d < static_cast<size_t>(dim); ++d) score += query[own + d] * key[other(p) + d];
      score *= op.score_scale;
      if (op.softcap > 0) score = op.softcap * std::tanh(score / op.softcap);
      scores.push_back(std::exp(score));
      sum += scores.back();
    }
    for (int64_t p = begin; p <= t; ++p)
      for (size_t d = 0; d < static_cast<size_t>(dim); ++d)
        mixed[own + d] += scores[static_cast<size_t>(p - begin)] / sum * value[other(p) + d];
  }

  static double activate(Activation kind, double x) {
    switch (kind) {
      case Activation::kSilu: return x / (1.0 + std::exp(-x));
      case Activation::kGeluTanh: return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
      case Activation::kGelu: return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
    }
    return 0;
  }

  Values run(const Mlp& op, const Values& input) const {
    const auto width = static_cast<size_t>(op.down.in);
    Values activated;
    const Values first = linear(op.gate_up[0], input);
    const bool fused = op.gate_up.size() == 1;
    const Values second = fused ? Values() : linear(op.gate_up[1], input);
    for (size_t i = 0; i < first.size() / (fused ? 2 : 1); ++i) {
      const size_t gate = fused ? i / width * 2 * width + i % width : i;
      activated.push_back(activate(op.activation, first[gate]) * (fused ? first[gate + width] : second[i]));
    }
    return linear(op.down, activated);
  }

  Values run(const Moe& op, const Values& input) const {
    const auto hidden = static_cast<size_t>(spec_.hidden), experts = static_cast<size_t>(op.router.out);
    const Values scores = linear(op.router, input);
    Values out(input.size());
    for (size_t t = 0; t < input.size() / hidden; ++t) {
      const Values x(input.begin() + static_cast<std::ptrdiff_t>(t * hidden),
                     input.begin() + static_cast<std::ptrdiff_t>((t + 1) * hidden));
      std::vector<size_t> order(experts);
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[t * experts + a] > scores[t * experts + b]; });
      const auto chosen = static_cast<size_t>(op.experts_per_token);
      double sum = 0;
      for (size_t i = 0; i < (op.normalize_weights ? chosen : experts); ++i) sum += std::exp(scores[t * experts + order[i]]);
      for (size_t i = 0; i < chosen; ++i) {
        const auto e = static_cast<int64_t>(order[i]);
        Values activated = linear(op.gate_up[0], x, e);
        const Values up = linear(op.gate_up[1], x, e);
        for (size_t k = 0; k < activated.size(); ++k) activated[k] = activate(op.activation, activated[k]) * up[k];
        const Values result = linear(op.down, activated, e);
        for (size_t k = 0; k < hidden; ++k) out[t * hidden + k] += std::exp(scores[t * experts + order[i]]) / sum * result[k];
      }
    }
    return out;
  }

  ModelSpec spec_;
};

}  // namespace tq::graph_test
