#include "quantize/gradients.h"

#include <algorithm>

#include "base/rng.h"

namespace tq {
namespace {

constexpr uint64_t kWaveBytes = uint64_t{256} << 20;
constexpr double kWeightClip = 8.0;  // times the mean

// Squares of gradient [n, R]: their mean over the rows of each token, and their sum over the tokens of each row.
struct Squares {
  const float* gradient = nullptr;
  int64_t tokens = 0, rows = 0;
};

void add_token_means(const Squares& squares, const std::function<float&(int64_t)>& token, ThreadPool& threads) {
  threads.run(squares.tokens, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = squares.gradient + t * squares.rows;
      double sum = 0;
      for (int64_t r = 0; r < squares.rows; ++r) sum += static_cast<double>(row[r]) * row[r];
      token(t) += static_cast<float>(sum / static_cast<double>(squares.rows));
    }
  });
}

void add_row_sums(const Squares& squares, float* row_sum, ThreadPool& threads) {
  threads.run(squares.rows, 64, [&](int64_t begin, int64_t end, int) {
    std::vector<double> sum(static_cast<size_t>(end - begin));
    for (int64_t t = 0; t < squares.tokens; ++t) {
      const float* row = squares.gradient + t * squares.rows + begin;
      for (size_t r = 0; r < sum.size(); ++r) sum[r] += static_cast<double>(row[r]) * row[r];
    }
    for (size_t r = 0; r < sum.size(); ++r) row_sum[static_cast<size_t>(begin) + r] += static_cast<float>(sum[r]);
  });
}

class Wave {
 public:
  Wave(const Model& model, Backend& backend, const Context& context, const GradientRequest& request)
      : model_(model), backend_(backend), context_(context), request_(request) {
    length_ = static_cast<int64_t>(request.sequences[0].size());
    for (const Linear* linear : linears(model.spec)) prepare(*linear);
    prepare(model.spec.head);
  }

  Result<Gradients> run() {
    const TrainingPassArgs args{.sequences = request_.sequences,
                                .loss = [this](int64_t sequence, const LossChunk& chunk) { sampled_loss(sequence, chunk); },
                                .linear = [this](int64_t sequence, const LinearGradient& gradient) { add(sequence, gradient); },
                                .norm = {},
                                .embedded = {}};
    TQ_TRY(training_pass(model_, backend_, context_, args));
    return std::move(gradients_);
  }

 private:
  void prepare(const Linear& linear) {
    OutputGradients& own = gradients_[linear.name];
    own.token.resize(request_.sequences.size() * static_cast<size_t>(length_));
    own.row.resize(static_cast<size_t>(std::max<int64_t>(1, linear.experts) * linear.out));
  }

  // -log p of labels that are drawn from p.
  void sampled_loss(int64_t sequence, const LossChunk& chunk) {
    const uint64_t stream = splitmix64(request_.seed ^ splitmix64(static_cast<uint64_t>(request_.first_sequence + sequence)));
    std::vector<double> uniform;
    for (int64_t t = 0; t < chunk.tokens; ++t)
      uniform.push_back(static_cast<double>(splitmix64(stream + static_cast<uint64_t>(chunk.first + t)) >> 11) * 0x1p-53);
    std::vector<int32_t> labels(uniform.size());
    const int64_t vocabulary = model_.spec.vocabulary;
    backend_.training()->sample({.logits = chunk.logits, .uniform = uniform, .label = labels.data(), .vocabulary = vocabulary});
    backend_.training()->cross_entropy(
        {.logits = chunk.logits, .labels = labels, .gradient = chunk.gradient, .loss = chunk.loss, .vocabulary = vocabulary});
  }

  void add(int64_t sequence, const LinearGradient& gradient) {
    OutputGradients& own = gradients_.at(gradient.linear.name);
    const Squares squares{gradient.gradient, gradient.tokens, gradient.linear.out};
    const auto token = [&](int64_t t) -> float& {
      const int64_t position = gradient.positions.empty() ? t : gradient.positions[static_cast<size_t>(t)];
      return own.token[static_cast<size_t>(sequence * length_ + position)];
    };
    add_token_means(squares, token, context_.threads);
    add_row_sums(squares, own.row.data() + gradient.expert * gradient.linear.out, context_.threads);
  }

  const Model& model_;
  Backend& backend_;
  const Context& context_;
  const GradientRequest& request_;
  int64_t length_ = 0;
  Gradients gradients_;
};

// Scaled to mean 1 after clipping at kWeightClip times that mean, so that no fewer than a kWeightClip-th of the tokens decide: all later
// tokens look at the first of a sequence, which would have 95 % of the weight of some values. All zeros stay so.
std::vector<double> normalised(const std::vector<float>& token) {
  std::vector<double> out(token.begin(), token.end());
  for (int round = 0; round < 60; ++round) {  // the mean falls with the clip, and converges
    double sum = 0;
    for (const double each : out) sum += each;
    if (!(sum > 0)) return out;
    const double scale = static_cast<double>(out.size()) / sum;
    bool is_clipped = false;
    for (double& each : out) {
      each *= scale;
      is_clipped |= each > kWeightClip * (1 + 1e-9);
      each = std::min(each, kWeightClip);
    }
    if (!is_clipped) return out;
  }
  return out;
}

}  // namespace

int64_t sequences_per_wave(const ModelSpec& spec, int64_t length) {
  return std::max<int64_t>(1, static_cast<int64_t>(kWaveBytes / training_bytes(spec, length)));
}

Result<Gradients> measure_gradients(const Model& model, Backend& backend, const Context& context, const GradientRequest& request) {
  TQ_CHECK(!request.sequences.empty());
  return Wave(model, backend, context, request).run();
}

void append(Gradients& all, const Gradients& wave) {
  for (const auto& [name, gradients] : wave) {
    OutputGradients& own = all[name];
    own.token.insert(own.token.end(), gradients.token.begin(), gradients.token.end());
    own.row.resize(gradients.row.size());
    for (size_t r = 0; r < own.row.size(); ++r) own.row[r] += gradients.row[r];
  }
}

TokenWeights token_weights(const ModelSpec& spec, const Gradients& gradients) {
  std::map<std::string, std::vector<double>> sums;
  const auto add = [&](const Linear& linear) {
    const std::vector<double> own = normalised(gradients.at(linear.name).token);
    std::vector<double>& sum = sums[linear.tap];
    sum.resize(own.size());
    for (size_t t = 0; t < own.size(); ++t) sum[t] += own[t];
  };
  for (const Linear* linear : linears(spec)) add(*linear);
  add(spec.head);
  TokenWeights out;
  for (const auto& [tap, sum] : sums) {
    double total = 0;
    for (const double each : sum) total += each;
    std::vector<float>& weight = out[tap];
    for (const double each : sum) weight.push_back(total > 0 ? static_cast<float>(each * static_cast<double>(sum.size()) / total) : 1.0f);
  }
  return out;
}

}  // namespace tq
