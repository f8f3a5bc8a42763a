#include "eval/divergence.h"

#include <algorithm>
#include <cmath>

namespace tq {
namespace {

constexpr int64_t kChunk = 64;  // positions whose logits exist at a time

// log(sum exp) of a row, and where its largest value is (the first of equals).
struct LogSum {
  double value;
  int64_t top;
};

LogSum log_sum(const float* logits, int64_t count) {
  const float* largest = std::max_element(logits, logits + count);
  float sum_parts[16] = {};  // independent sums, for speed; float is enough for terms in (0, 1]
  double sum = 0;
  int64_t i = 0;
  for (; i + 16 * 256 <= count; i += 16 * 256) {
    std::fill(std::begin(sum_parts), std::end(sum_parts), 0.0f);
    for (int64_t j = 0; j < 256; ++j)
      for (int64_t k = 0; k < 16; ++k) sum_parts[k] += std::exp(logits[i + j * 16 + k] - *largest);
    for (const float part : sum_parts) sum += part;
  }
  for (; i < count; ++i) sum += std::exp(logits[i] - *largest);
  return {std::log(sum) + *largest, largest - logits};
}

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

class Evaluation {
 public:
  Evaluation(Network& network, Network* original, const EvalOptions& options, bool with_float, const Context& context)
      : network_(network), original_(original), options_(options), with_float_(with_float && original), context_(context) {}

  Status prepare() {
    const auto create = [&](Network& network) {
      return KvCache::create(network.backend(), network.model().spec, KvType::kF16, options_.window);
    };
    TQ_ASSIGN(KvCache cache, create(network_));
    caches_.push_back(std::move(cache));
    if (original_) {
      TQ_ASSIGN(KvCache other, create(*original_));
      caches_.push_back(std::move(other));
    }
    for (size_t i = 0; i < std::size(states_); ++i) {
      Network& network = i == 1 && original_ ? *original_ : network_;
      const int64_t count = options_.window * network.model().spec.hidden;
      TQ_ASSIGN(states_[i], network.backend().allocate(static_cast<uint64_t>(count) * sizeof(float)));
    }
    const int64_t vocabulary = network_.model().spec.vocabulary;
    for (Buffer<float>& logits : logits_) logits = Buffer<float>::uninitialized(static_cast<size_t>(kChunk * vocabulary));
    return {};
  }

  void run(const Window& window, Positions& out) {
    const int64_t first = window.first_scored, count = options_.window - 1 - first;
    out.per_window = count;
    keep_states(network_, caches_[0], window, Precision::kInt8, states_[0]);
    if (original_) keep_states(*original_, caches_[1], window, Precision::kInt8, states_[1]);
    if (with_float_) keep_states(network_, caches_[0], window, Precision::kFloat, states_[2]);
    for (int64_t at = 0; at < count; at += kChunk) {
      const int64_t here = std::min(kChunk, count - at);
      head(network_, states_[0], first + at, here, logits_[0], Precision::kInt8);
      if (original_) head(*original_, states_[1], first + at, here, logits_[1], Precision::kInt8);
      if (with_float_) head(network_, states_[2], first + at, here, logits_[2], Precision::kFloat);
      score(window, first + at, here, out);
    }
  }

 private:
  // The hidden states of a window, where the next pass does not overwrite them.
  static void keep_states(Network& network, KvCache& cache, const Window& window, Precision precision, Memory& states) {
    const float* hidden = network.forward({.tokens = window.tokens, .cache = &cache, .precision = precision});
    network.backend().copy(states.as<float>(), hidden, states.bytes());
  }

  static void head(Network& network, const Memory& states, int64_t position, int64_t count, Buffer<float>& logits, Precision precision) {
    network.head(states.as<float>() + position * network.model().spec.hidden, count, logits.data(), precision);
  }

  // Positions [first, first + count) of the window, whose logits are in logits_.
  void score(const Window& window, int64_t first, int64_t count, Positions& out) {
    const size_t base = out.loss.size();
    const size_t size = base + static_cast<size_t>(count);
    out.loss.resize(size);
    if (original_)
      for (auto* values : {&out.loss_original, &out.kl, &out.same_top}) values->resize(size);
    if (with_float_) out.kl_float.resize(size);
    const int64_t vocabulary = network_.model().spec.vocabulary;
    context_.threads.run(count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const size_t at = base + static_cast<size_t>(i);
        const TokenId next = window.tokens[static_cast<size_t>(first + i + 1)];
        const float* own = logits_[0].data() + i * vocabulary;
        const LogSum own_sum = log_sum(own, vocabulary);
        out.loss[at] = own_sum.value - own[next];
        if (!original_) continue;
        const float* other = logits_[1].data() + i * vocabulary;
        const LogSum other_sum = log_sum(other, vocabulary);
        out.loss_original[at] = other_sum.value - other[next];
        out.kl[at] = divergence(other, other_sum, own, own_sum, vocabulary);
        out.same_top[at] = own_sum.top == other_sum.top ? 1.0 : 0.0;
        if (!with_float_) continue;
        const float* exact = logits_[2].data() + i * vocabulary;
        out.kl_float[at] = divergence(other, other_sum, exact, log_sum(exact, vocabulary), vocabulary);
      }
    });
  }

  Network& network_;
  Network* original_;
  const EvalOptions& options_;
  bool with_float_;
  const Context& context_;
  std::vector<KvCache> caches_;
  Memory states_[3];  // of the model, of the original, of the model with float activations
  Buffer<float> logits_[3];
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

Result<TextResult> evaluate(Network& network, Network* original, const EvalText& text, const EvalOptions& options, bool with_float,
                            const Context& context) {
  if (original && original->model().spec.vocabulary != network.model().spec.vocabulary)
    return bad_input("{}: its vocabulary of {} tokens is not that of {} ({})", original->model().source, original->model().spec.vocabulary,
                     network.model().source, network.model().spec.vocabulary);
  TextResult result;
  result.name = text.name;
  result.window = options.window;
  result.windows = std::min(options.windows, static_cast<int64_t>(text.tokens.size()) / options.window);
  if (result.windows < 1)
    return bad_input("{}: it has {} tokens, less than one window of {}; give more text or a smaller --window", text.name,
                     text.tokens.size(), options.window);
  const auto& tokenizer = network.model().tokenizer;
  const bool has_bos = tokenizer && !tokenizer->encode("", false, true).empty();
  Evaluation evaluation(network, original, options, with_float, context);
  TQ_TRY(evaluation.prepare());
  for (int64_t i = 0; i < result.windows; ++i) {
    if (context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    evaluation.run(cut_window(text, options, i, has_bos ? tokenizer->bos() : -1), result.positions);
    context.listener.progress(text.name, i + 1, result.windows);
  }
  summarize(result);
  return result;
}

}  // namespace tq
