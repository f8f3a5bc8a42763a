#include "quantize/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/grid/layout.h"

namespace tq {
namespace {

int64_t ranges_of(int64_t rows) { return (rows + grid::kRateRows - 1) / grid::kRateRows; }

// Divergence from the original's logits, which come from its hidden states chunk by chunk.
class ReferenceLoss {
 public:
  ReferenceLoss(const Model& original, Backend& backend, HeadWeights head, Memory hidden, int64_t length)
      : original_(original),
        backend_(backend),
        head_(std::move(head)),
        hidden_(std::move(hidden)),
        length_(length),
        workspace_(backend),
        logits_(backend) {}

  void operator()(int64_t sequence, const LossChunk& chunk) {
    const int64_t width = original_.spec.hidden, vocabulary = original_.spec.vocabulary;
    float* reference = logits_.floats(0, chunk.tokens * vocabulary);
    forward_head(original_.spec, head_, backend_,
                 {.hidden = hidden_.as<float>() + (sequence * length_ + chunk.first) * width,
                  .tokens = chunk.tokens,
                  .logits = reference,
                  .precision = Precision::kTraining},
                 workspace_);
    backend_.training()->divergence({.logits = chunk.logits,
                                     .reference = reference,
                                     .gradient = chunk.gradient,
                                     .loss = chunk.loss,
                                     .tokens = chunk.tokens,
                                     .vocabulary = vocabulary});
  }

 private:
  const Model& original_;
  Backend& backend_;
  HeadWeights head_;
  Memory hidden_;  // [sequences, T, H]
  int64_t length_;
  Workspace workspace_, logits_;
};

// What one linear changes by under each candidate, for a sequence after another.
class Pricer {
 public:
  Pricer(Backend& backend, const SensitivityRequest& request, MovePrices& prices)
      : backend_(backend), request_(request), prices_(prices), memory_(backend) {}

  void set_fisher(const Gradients* fisher) { fisher_ = fisher; }
  const Status& status() const { return status_; }

  void add(int64_t sequence, const LinearGradient& gradient) {
    if (!status_ || gradient.linear.role == Role::kHead || gradient.linear.role == Role::kRouter) return;
    status_ = try_add(sequence, gradient);
  }

 private:
  // Matrices of the linear at hand; the sequences of a wave come one after another, so they are prepared once a wave and layer.
  struct Prepared {
    std::unique_ptr<Matrix> base;  // of a device
    std::vector<std::unique_ptr<Matrix>> candidates;
  };

  Status try_add(int64_t sequence, const LinearGradient& gradient) {
    TQ_ASSIGN(const Prepared* prepared, prepare(gradient.linear, gradient.expert));
    const int64_t count = gradient.tokens * gradient.linear.out;
    // On a device the forward pass of training multiplies in another way than this does, and only like products may be compared.
    const float* base = backend_.is_host() ? gradient.output : memory_.floats(kBase, count);
    float* moved = memory_.floats(kMoved, count);
    upload_weights(sequence, gradient);
    if (!backend_.is_host()) multiply(*prepared->base, gradient, memory_.floats(kBase, count));
    for (size_t c = 0; c < prepared->candidates.size(); ++c) {
      multiply(*prepared->candidates[c], gradient, moved);
      std::vector<MovePrice>& price = prices_[gradient.linear.name][request_.candidates[c].first];
      const int64_t ranges = ranges_of(gradient.linear.out);
      price.resize(static_cast<size_t>(std::max<int64_t>(1, gradient.linear.experts) * ranges));
      add_prices(gradient, base, price.data() + gradient.expert * ranges);
    }
    return {};
  }

  Result<const Prepared*> prepare(const Linear& linear, int64_t expert) {
    const std::string layer = linear.name.substr(0, linear.name.find('.', std::string("model.layers.").size()));
    if (layer != layer_) prepared_.clear(), layer_ = layer;
    const auto [found, is_new] = prepared_.try_emplace({linear.name, expert});
    if (!is_new) return &found->second;
    if (!backend_.is_host()) {
      TQ_ASSIGN(found->second.base, backend_.prepare(*request_.base.find(linear.name + ".weight"), expert));
    }
    for (const auto& [rate, model] : request_.candidates) {
      TQ_ASSIGN(auto matrix, backend_.prepare(*model->find(linear.name + ".weight"), expert));
      found->second.candidates.push_back(std::move(matrix));
    }
    return &found->second;
  }

  void multiply(const Matrix& matrix, const LinearGradient& gradient, float* output) {
    const LinearJob job{&matrix, gradient.bias, output};
    backend_.linear({.input = gradient.input, .tokens = gradient.tokens, .jobs = {&job, 1}, .precision = Precision::kTraining});
  }

  // sqrt(s_t) of the gradient's tokens.
  void upload_weights(int64_t sequence, const LinearGradient& gradient) {
    const std::vector<float>& fisher = fisher_->at(gradient.linear.name).token;
    const auto length = static_cast<int64_t>(request_.sequences[0].size());
    std::vector<float> root;
    for (int64_t t = 0; t < gradient.tokens; ++t) {
      const int64_t position = gradient.positions.empty() ? t : gradient.positions[static_cast<size_t>(t)];
      root.push_back(std::sqrt(fisher[static_cast<size_t>(sequence * length + position)]));
    }
    backend_.upload(memory_.floats(kRoots, gradient.tokens), root.data(), root.size() * sizeof(float));
  }

  // Sums over the tokens, range by range, of g d and of s f d^2 / 2; d = moved - base. kMoved becomes d, then sqrt(s) d.
  void add_prices(const LinearGradient& gradient, const float* base, MovePrice* price) {
    Training& training = *backend_.training();
    const int64_t rows = gradient.linear.out, tokens = gradient.tokens;
    float* change = memory_.floats(kMoved, tokens * rows);
    float* sums = memory_.floats(kSums, 2 * rows);  // of g d, of s d^2
    backend_.zero(sums, 2 * rows);
    training.squared_error({.output = change, .target = base, .gradient = change, .tokens = tokens, .width = rows, .scale = 0.5f});
    training.row_scale_gradient({.output = change, .gradient = gradient.gradient, .sum = sums, .tokens = tokens, .rows = rows});
    training.scale_rows({.values = change, .factor = memory_.floats(kRoots, tokens), .rows = tokens, .columns = rows});
    training.squares({.gradient = change, .row = sums + rows, .tokens = tokens, .rows = rows});
    std::vector<float> found(static_cast<size_t>(2 * rows));
    backend_.download(found.data(), sums, found.size() * sizeof(float));
    const std::vector<float>& fisher = fisher_->at(gradient.linear.name).row;
    const double mean = std::accumulate(fisher.begin(), fisher.end(), 0.0) / static_cast<double>(fisher.size());
    for (int64_t r = 0; r < rows; ++r) {
      MovePrice& own = price[r / grid::kRateRows];
      own.first += found[static_cast<size_t>(r)];
      if (mean > 0)
        own.second += 0.5 * fisher[static_cast<size_t>(gradient.expert * rows + r)] / mean * found[static_cast<size_t>(rows + r)];
    }
  }

  enum Slot : size_t { kBase, kMoved, kRoots, kSums };

  Backend& backend_;
  const SensitivityRequest& request_;
  MovePrices& prices_;
  const Gradients* fisher_ = nullptr;
  Status status_;
  std::string layer_;
  std::map<std::pair<std::string, int64_t>, Prepared> prepared_;
  Workspace memory_;
};

}  // namespace

Result<Sensitivity> price_moves(Backend& backend, const Context& context, const SensitivityRequest& request) {
  const auto length = static_cast<int64_t>(request.sequences[0].size());
  const auto count = static_cast<int64_t>(request.sequences.size());
  const int64_t wave = sequences_per_wave(request.base.spec, length);
  Sensitivity out;
  Pricer pricer(backend, request, out.prices);
  for (int64_t first = 0; first < count; first += wave) {
    const auto sequences = request.sequences.subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(wave, count - first)));
    TQ_ASSIGN(const Gradients fisher,
              measure_gradients(request.base, backend, context, {.sequences = sequences, .first_sequence = first, .seed = request.seed}));
    TQ_ASSIGN(Memory hidden, final_hidden(request.original, backend, context, sequences));
    TQ_ASSIGN(HeadWeights head, prepare_head(request.original, backend));
    ReferenceLoss loss(request.original, backend, std::move(head), std::move(hidden), length);
    pricer.set_fisher(&fisher);
    TQ_ASSIGN(const double divergence,
              training_pass(request.base, backend, context,
                            {.sequences = sequences,
                             .loss = [&](int64_t sequence, const LossChunk& chunk) { loss(sequence, chunk); },
                             .linear = [&](int64_t sequence, const LinearGradient& gradient) { pricer.add(sequence, gradient); },
                             .norm = {},
                             .embedded = {}}));
    TQ_TRY(Status(pricer.status()));
    out.divergence += divergence;
    context.listener.progress("sensitivity", std::min(count, first + wave), count);
  }
  const double tokens = static_cast<double>(count * length);
  out.divergence /= tokens;
  for (auto& [name, rates] : out.prices)
    for (auto& [rate, prices] : rates)
      for (MovePrice& price : prices) price.first /= tokens, price.second /= tokens;
  return out;
}

}  // namespace tq
