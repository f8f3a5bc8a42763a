#include "eval/divergence.h"

#include <algorithm>
#include <cmath>

#include "base/counted.h"

namespace tq {
namespace {

constexpr int64_t kHostChunk = 64, kDeviceChunk = 256;

struct Window {
  std::vector<TokenId> tokens;
  int64_t first_scored;  // position whose logits predict the first scored token
};

int64_t first_scored(const EvalOptions& options) { return options.protocol == Protocol::kSecondHalf ? options.window / 2 : 0; }

Window cut_window(const EvalText& text, const EvalOptions& options, int64_t index, TokenId bos) {
  Window window;
  const auto begin = text.tokens.begin() + index * options.window;
  window.tokens.assign(begin, begin + options.window);
  if (bos >= 0) window.tokens[0] = bos;
  window.first_scored = first_scored(options);
  return window;
}

// Positions whose logits exist at a time.
int64_t chunk_of(const Backend& backend, int64_t window) { return std::min(backend.is_host() ? kHostChunk : kDeviceChunk, window); }

// That a pass of a whole window has at once.
int64_t whole_rows(const EvalOptions& options) { return std::min(options.window, options.most_rows); }
// The same of what is measured.
int64_t own_rows(const EvalOptions& options) {
  return options.rows > 0 ? std::min(options.rows, whole_rows(options)) : whole_rows(options);
}

bool has_grid(const Model& model) {
  return std::any_of(model.tensors.begin(), model.tensors.end(), [](const auto& entry) { return entry.second.codec == CodecId::kGrid; });
}

// A model's way through a window: its hidden states are kept until every model's are there, then logits exist chunk by chunk.
class Pass {
 public:
  // rows: that go through the network at once, at most the window. All that a window may need is taken here, so that none of them ends for
  // want of memory.
  static Result<Pass> create(Network& network, Precision precision, int64_t window, int64_t rows) {
    const ModelSpec& spec = network.model().spec;
    TQ_TRY(network.reserve({.rows = rows,
                            .head_rows = std::min(rows, chunk_of(network.backend(), window)),
                            .capacity = window,
                            .precision = precision,
                            .has_own_logits = false}));
    TQ_ASSIGN(KvCache cache, KvCache::create(network.backend(), spec, KvType::kF16, window));
    TQ_ASSIGN(Memory states, network.backend().allocate(static_cast<uint64_t>(window * spec.hidden) * sizeof(float)));
    return Pass(network, precision, rows, std::move(cache), std::move(states));
  }

  // False: stopped on the way.
  bool run(const Window& window, const Context& context) {
    const auto length = static_cast<int64_t>(window.tokens.size()), width = network_->model().spec.hidden;
    for (int64_t first = 0; first < length; first += rows_) {
      if (context.stopped()) return false;
      const int64_t count = std::min(rows_, length - first);
      const float* hidden =
          network_->forward({.tokens = std::span(window.tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
                             .first_position = first,
                             .sequence_length = length,
                             .cache = &cache_,
                             .precision = precision_});
      network_->backend().copy(states_.as<float>() + first * width, hidden, static_cast<uint64_t>(count * width) * sizeof(float));
    }
    return true;
  }
  // logits[count, V] of positions from `position` on
  void logits(int64_t position, int64_t count, float* logits) {
    const ModelSpec& spec = network_->model().spec;
    for (int64_t first = 0; first < count; first += rows_)
      network_->logits(states_.as<float>() + (position + first) * spec.hidden, std::min(rows_, count - first),
                       logits + first * spec.vocabulary, precision_);
  }

 private:
  Pass(Network& network, Precision precision, int64_t rows, KvCache cache, Memory states)
      : network_(&network), precision_(precision), rows_(rows), cache_(std::move(cache)), states_(std::move(states)) {}
  Network* network_;
  Precision precision_;
  int64_t rows_;
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
  explicit Evaluation(const EvalOptions& options) : options_(options) {}

  Status prepare(std::span<Network* const> networks, Network* original) {
    for (Network* network : networks) {
      TQ_ASSIGN(Pass pass, Pass::create(*network, Precision::kInt8, options_.window, own_rows(options_)));
      subjects_.push_back({std::move(pass), {}, {}});
      if (!options_.with_float || !original || !has_grid(network->model())) continue;
      TQ_ASSIGN(subjects_.back().exact, Pass::create(*network, Precision::kFloat, options_.window, whole_rows(options_)));
    }
    if (original) {
      TQ_ASSIGN(original_, Pass::create(*original, Precision::kInt8, options_.window, whole_rows(options_)));
    }
    backend_ = &networks[0]->backend();
    vocabulary_ = networks[0]->model().spec.vocabulary;
    chunk_ = chunk_of(*backend_, options_.window);
    for (Memory* logits : {&logits_, &original_logits_}) {
      TQ_ASSIGN(*logits, backend_->allocate(static_cast<uint64_t>(chunk_ * vocabulary_) * sizeof(float)));
    }
    scores_.resize(static_cast<size_t>(chunk_));
    return {};
  }

  // False: stopped on the way, between two passes or chunks of logits; the positions may have a part of the window.
  bool run(const Window& window, const Context& context) {
    const int64_t first = window.first_scored, count = options_.window - 1 - first;
    if (original_ && !original_->run(window, context)) return false;
    for (Subject& subject : subjects_) {
      subject.positions.per_window = count;
      if (!subject.pass.run(window, context) || (subject.exact && !subject.exact->run(window, context))) return false;
    }
    for (int64_t at = 0; at < count; at += chunk_) {
      if (context.stopped()) return false;
      const int64_t here = std::min(chunk_, count - at);
      if (original_) original_->logits(first + at, here, original_logits_.as<float>());
      for (Subject& subject : subjects_) append(subject, window, first + at, here);
    }
    return true;
  }

  Positions take(size_t subject) { return std::move(subjects_[subject].positions); }
  // Goes on behind the first windows, whose positions are there.
  void put(size_t subject, Positions positions) { subjects_[subject].positions = std::move(positions); }

 private:
  // Of positions [first, first + count) of the window, whose logits by the original are there.
  std::span<const TokenScore> score(Pass& pass, const Window& window, int64_t first, int64_t count) {
    pass.logits(first, count, logits_.as<float>());
    backend_->score({.logits = logits_.as<float>(),
                     .reference = original_ ? original_logits_.as<float>() : nullptr,
                     .next = std::span(window.tokens).subspan(static_cast<size_t>(first + 1), static_cast<size_t>(count)),
                     .score = scores_.data(),
                     .vocabulary = vocabulary_});
    return std::span(scores_).first(static_cast<size_t>(count));
  }

  void append(Subject& subject, const Window& window, int64_t first, int64_t count) {
    Positions& out = subject.positions;
    for (const TokenScore& each : score(subject.pass, window, first, count)) {
      out.loss.push_back(each.loss);
      if (!original_) continue;
      out.loss_original.push_back(each.reference_loss);
      out.kl.push_back(each.divergence);
      out.same_top.push_back(each.top == each.reference_top ? 1.0 : 0.0);
    }
    if (!subject.exact) return;
    for (const TokenScore& each : score(*subject.exact, window, first, count)) out.kl_float.push_back(each.divergence);
  }

  const EvalOptions& options_;
  Backend* backend_ = nullptr;  // of all networks
  int64_t vocabulary_ = 0, chunk_ = 0;
  std::vector<Subject> subjects_;
  std::optional<Pass> original_;
  Memory logits_, original_logits_;  // [chunk, V]
  std::vector<TokenScore> scores_;
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

// How many windows all of them have, at most `windows`; what some have beyond is cut off.
int64_t common_windows(std::vector<Positions>& all, int64_t per_window, int64_t windows) {
  for (const Positions& each : all) {
    const bool is_other = each.per_window != per_window;
    windows = is_other ? 0 : std::min(windows, static_cast<int64_t>(each.loss.size()) / per_window);
  }
  for (Positions& each : all) {
    each.per_window = per_window;
    for (std::vector<double>* values : {&each.loss, &each.loss_original, &each.kl, &each.kl_float, &each.same_top})
      values->resize(std::min(values->size(), static_cast<size_t>(windows * per_window)));
  }
  return windows;
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const auto at = static_cast<std::ptrdiff_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<size_t>(at)];
}

}  // namespace

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

std::string_view protocol_name(Protocol protocol) { return protocol == Protocol::kAll ? "huggingface" : "llama.cpp"; }

std::optional<Protocol> protocol_from_name(std::string_view name) {
  for (const Protocol protocol : {Protocol::kAll, Protocol::kSecondHalf})
    if (protocol_name(protocol) == name) return protocol;
  return std::nullopt;
}

Result<std::vector<TextResult>> evaluate(std::span<Network* const> networks, Network* original, const EvalText& text,
                                         const EvalOptions& options, const Context& context, std::vector<Positions>* done) {
  TQ_CHECK(!networks.empty() && (!done || done->size() == networks.size()));
  const Model& first = networks[0]->model();
  const Network* others[] = {original};
  for (const auto& list : {std::span<const Network* const>(networks), std::span<const Network* const>(others)})
    for (const Network* other : list)
      if (other && other->model().spec.vocabulary != first.spec.vocabulary)
        return bad_input("{}: its vocabulary of {} tokens is not that of {} ({})", other->model().source, other->model().spec.vocabulary,
                         first.source, first.spec.vocabulary);
  const int64_t windows = std::min(options.windows, static_cast<int64_t>(text.tokens.size()) / options.window);
  if (windows < 1)
    return bad_input("{}: it has {}, less than one window of {}; give more text or a smaller --window", text.name,
                     counted(text.tokens.size(), "token"), options.window);
  const bool has_bos = first.tokenizer && !first.tokenizer->encode("", false, true).empty();
  Evaluation evaluation(options);
  TQ_TRY(evaluation.prepare(networks, original));
  int64_t begin = 0;
  if (done) {
    begin = common_windows(*done, options.window - 1 - first_scored(options), windows);
    for (size_t i = 0; i < networks.size(); ++i) evaluation.put(i, std::move((*done)[i]));
  }
  for (int64_t i = begin; i < windows; ++i) {
    if (!evaluation.run(cut_window(text, options, i, has_bos ? first.tokenizer->bos() : -1), context)) {
      for (size_t k = 0; done && k < networks.size(); ++k) (*done)[k] = evaluation.take(k);
      if (done) common_windows(*done, options.window - 1 - first_scored(options), i);
      return fail(ErrorCode::kInterrupted, "stopped");
    }
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
