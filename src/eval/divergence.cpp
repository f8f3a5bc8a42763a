#include "eval/divergence.h"

#include <algorithm>
#include <cmath>

#include "eval/logits.h"

namespace tq {
namespace {

constexpr int64_t kChunk = 64;  // positions whose logits exist at a time

double divergence(const float* original, const LogSum& original_sum, const float* logits, const LogSum& sum, int64_t count) {
  double total = 0;
  const double shift = sum.value - original_sum.value;
  for (int64_t i = 0; i < count; ++i) {
    const double log_p = original[i] - original_sum.value;
    if (log_p < -40) continue;  // below 1e-17 each: nothing to double precision
    total += std::exp(log_p) * (static_cast<double>(original[i]) - logits[i] + shift);
  }
  return total;
}

struct Window {
  std::vector<TokenId> tokens;
  int64_t first_scored;  // position whose logits predict the first scored token
};

Window cut_window(const EvalText& text, const EvalOptions& options, int64_t index, TokenId bos) {
  Window window;
  const auto begin = text.tokens.begin() + index * options.window;
  window.tokens.assign(begin, begin + options.window);
  if (bos >= 0) window.tokens[0] = bos;
  window.first_scored = options.protocol == Protocol::kSecondHalf ? options.window / 2 : 0;
  return window;
}

bool has_grid(const Model& model) {
  return std::any_of(model.tensors.begin(), model.tensors.end(), [](const auto& entry) { return entry.second.codec == CodecId::kGrid; });
}

// A model's way through a window: its hidden states are kept until every model's are there, then logits exist chunk by chunk.
class Pass {
 public:
  static Result<Pass> create(Network& network, Precision precision, int64_t window) {
    const ModelSpec& spec = network.model().spec;
    TQ_ASSIGN(KvCache cache, KvCache::create(network.backend(), spec, KvType::kF16, window));
    TQ_ASSIGN(Memory states, network.backend().allocate(static_cast<uint64_t>(window * spec.hidden) * sizeof(float)));
    return Pass(network, precision, std::move(cache), std::move(states));
  }

  void run(const Window& window) {
    const float* hidden = network_->forward({.tokens = window.tokens, .cache = &cache_, .precision = precision_});
    network_->backend().copy(states_.as<float>(), hidden, states_.bytes());
  }
  // logits[count, V] of positions from `position` on
  void head(int64_t position, int64_t count, float* logits) {
    network_->head(states_.as<float>() + position * network_->model().spec.hidden, count, logits, precision_);
  }

 private:
  Pass(Network& network, Precision precision, KvCache cache, Memory states)
      : network_(&network), precision_(precision), cache_(std::move(cache)), states_(std::move(states)) {}
  Network* network_;
  Precision precision_;
  KvCache cache_;
  Memory states_;
};

// One subject: as the user's path computes, and with float activations if there is a difference.
struct Subject {
  Pass pass;
  std::optional<Pass> exact;
  Positions positions;
};

class Evaluation {
 public:
  Evaluation(const EvalOptions& options, const Context& context) : options_(options), context_(context) {}

  Status prepare(std::span<Network* const> networks, Network* original) {
    for (Network* network : networks) {
      TQ_ASSIGN(Pass pass, Pass::create(*network, Precision::kInt8, options_.window));
      subjects_.push_back({std::move(pass), {}, {}});
      if (!options_.with_float || !original || !has_grid(network->model())) continue;
      TQ_ASSIGN(subjects_.back().exact, Pass::create(*network, Precision::kFloat, options_.window));
    }
    if (original) {
      TQ_ASSIGN(original_, Pass::create(*original, Precision::kInt8, options_.window));
    }
    vocabulary_ = networks[0]->model().spec.vocabulary;
    for (Buffer<float>* logits : {&logits_, &original_logits_})
      *logits = Buffer<float>::uninitialized(static_cast<size_t>(kChunk * vocabulary_));
    original_sums_.resize(kChunk);
    return {};
  }

  void run(const Window& window) {
    const int64_t first = window.first_scored, count = options_.window - 1 - first;
    if (original_) original_->run(window);
    for (Subject& subject : subjects_) {
      subject.positions.per_window = count;
      subject.pass.run(window);
      if (subject.exact) subject.exact->run(window);
    }
    for (int64_t at = 0; at < count; at += kChunk) {
      const int64_t here = std::min(kChunk, count - at);
      if (original_) read_original(first + at, here);
      for (Subject& subject : subjects_) score(subject, window, first + at, here);
    }
  }

  Positions take(size_t subject) { return std::move(subjects_[subject].positions); }

 private:
  template <typename Function>
  void each_position(int64_t count, const Function& function) {
    context_.threads.run(count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) function(i);
    });
  }

  void read_original(int64_t first, int64_t count) {
    original_->head(first, count, original_logits_.data());
    each_position(count, [&](int64_t i) {
      original_sums_[static_cast<size_t>(i)] = log_sum(original_logits_.data() + i * vocabulary_, vocabulary_);
    });
  }

  // Positions [first, first + count) of the window; the original's logits of them are there.
  void score(Subject& subject, const Window& window, int64_t first, int64_t count) {
    Positions& out = subject.positions;
    const size_t base = out.loss.size(), size = base + static_cast<size_t>(count);
    out.loss.resize(size);
    if (original_)
      for (auto* values : {&out.loss_original, &out.kl, &out.same_top}) values->resize(size);
    subject.pass.head(first, count, logits_.data());
    each_position(count, [&](int64_t i) {
      const size_t at = base + static_cast<size_t>(i);
      const TokenId next = window.tokens[static_cast<size_t>(first + i + 1)];
      const float* own = logits_.data() + i * vocabulary_;
      const LogSum sum = log_sum(own, vocabulary_);
      out.loss[at] = sum.value - own[next];
      if (!original_) return;
      const float* other = original_logits_.data() + i * vocabulary_;
      const LogSum& other_sum = original_sums_[static_cast<size_t>(i)];
      out.loss_original[at] = other_sum.value - other[next];
      out.kl[at] = divergence(other, other_sum, own, sum, vocabulary_);
      out.same_top[at] = sum.top == other_sum.top ? 1.0 : 0.0;
    });
    if (!subject.exact) return;
    out.kl_float.resize(size);
    subject.exact->head(first, count, logits_.data());
    each_position(count, [&](int64_t i) {
      const float *own = logits_.data() + i * vocabulary_, *other = original_logits_.data() + i * vocabulary_;
      out.kl_float[base + static_cast<size_t>(i)] =
          divergence(other, original_sums_[static_cast<size_t>(i)], own, log_sum(own, vocabulary_), vocabulary_);
    });
  }

  const EvalOptions& options_;
  const Context& context_;
  int64_t vocabulary_ = 0;
  std::vector<Subject> subjects_;
  std::optional<Pass> original_;
  Buffer<float> logits_, original_logits_;
  std::vector<LogSum> original_sums_;
};

// Means of windows are nearly independent; positions are not.
Mean over_windows(const std::vector<double>& values, int64_t per_window) {
  std::vector<double> means;
  for (size_t at = 0; at < values.size(); at += static_cast<size_t>(per_window)) {
    double sum = 0;
    for (int64_t i = 0; i < per_window; ++i) sum += values[at + static_cast<size_t>(i)];
    means.push_back(sum / static_cast<double>(per_window));
  }
  return mean_of(means);
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const auto at = static_cast<std::ptrdiff_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<size_t>(at)];
}

void summarize(TextResult& result) {
  const Positions& p = result.positions;
  result.tokens = static_cast<int64_t>(p.loss.size());
  result.loss = over_windows(p.loss, p.per_window);
  if (p.loss_original.empty()) return;
  std::vector<double> difference(p.loss.size());
  for (size_t i = 0; i < difference.size(); ++i) difference[i] = p.loss[i] - p.loss_original[i];
  result.loss_original = over_windows(p.loss_original, p.per_window);
  result.loss_difference = over_windows(difference, p.per_window);
  result.kl = over_windows(p.kl, p.per_window);
  result.kl_float = over_windows(p.kl_float, p.per_window);
  result.top1 = over_windows(p.same_top, p.per_window);
  result.kl_median = quantile(p.kl, 0.5);
  result.kl_99 = quantile(p.kl, 0.99);
}

}  // namespace

std::string_view protocol_name(Protocol protocol) { return protocol == Protocol::kAll ? "huggingface" : "llama.cpp"; }

std::optional<Protocol> protocol_from_name(std::string_view name) {
  for (const Protocol protocol : {Protocol::kAll, Protocol::kSecondHalf})
    if (protocol_name(protocol) == name) return protocol;
  return std::nullopt;
}

Result<std::vector<TextResult>> evaluate(std::span<Network* const> networks, Network* original, const EvalText& text,
                                         const EvalOptions& options, const Context& context) {
  TQ_CHECK(!networks.empty());
  const Model& first = networks[0]->model();
  const Network* others[] = {original};
  for (const auto& list : {std::span<const Network* const>(networks), std::span<const Network* const>(others)})
    for (const Network* other : list)
      if (other && other->model().spec.vocabulary != first.spec.vocabulary)
        return bad_input("{}: its vocabulary of {} tokens is not that of {} ({})", other->model().source, other->model().spec.vocabulary,
                         first.source, first.spec.vocabulary);
  const int64_t windows = std::min(options.windows, static_cast<int64_t>(text.tokens.size()) / options.window);
  if (windows < 1)
    return bad_input("{}: it has {} tokens, less than one window of {}; give more text or a smaller --window", text.name,
                     text.tokens.size(), options.window);
  const bool has_bos = first.tokenizer && !first.tokenizer->encode("", false, true).empty();
  Evaluation evaluation(options, context);
  TQ_TRY(evaluation.prepare(networks, original));
  for (int64_t i = 0; i < windows; ++i) {
    if (context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    evaluation.run(cut_window(text, options, i, has_bos ? first.tokenizer->bos() : -1));
    context.listener.progress(text.name, i + 1, windows);
  }
  std::vector<TextResult> results(networks.size());
  for (size_t i = 0; i < networks.size(); ++i) {
    results[i].name = text.name, results[i].window = options.window, results[i].windows = windows;
    results[i].positions = evaluation.take(i);
    summarize(results[i]);
    for (const Network* network : {static_cast<const Network*>(networks[i]), static_cast<const Network*>(original)})
      if (network && !std::isfinite(network == original ? results[i].loss_original.mean : results[i].loss.mean))
        return bad_input("{}: its logits are no finite numbers; fetch or make it again", network->model().source);
  }
  return results;
}

}  // namespace tq
