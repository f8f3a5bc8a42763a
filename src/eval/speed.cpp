#include "eval/speed.h"

#include <algorithm>
#include <chrono>

#include "base/hash.h"
#include "base/rng.h"
#include "base/seconds.h"
#include "eval/statistics.h"

namespace tq {
namespace {

constexpr int64_t kFillTokens = 512;  // of a pass that fills the context

int64_t longest_run(const SpeedOptions& options) { return options.depth + std::max(options.prompt_tokens, options.answer_tokens); }

std::vector<int32_t> random_tokens(uint64_t seed, int64_t count, int64_t vocabulary) {
  Rng rng(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocabulary)));
  return tokens;
}

class Run {
 public:
  Run(Network& network, const SpeedOptions& options, KvCache& cache)
      : network_(network),
        options_(options),
        cache_(cache),
        prompt_(random_tokens(1, options.prompt_tokens, network.model().spec.vocabulary)),
        logits_(static_cast<size_t>(network.model().spec.vocabulary)) {}

  // What stands in the context.
  Status fill(const Context& context) {
    const std::vector<int32_t> tokens = random_tokens(2, options_.depth, network_.model().spec.vocabulary);
    for (int64_t first = 0; first < options_.depth; first += kFillTokens) {
      if (context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      const int64_t count = std::min(kFillTokens, options_.depth - first);
      forward(std::span(tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(count)), first);
      context.listener.progress(network_.model().source + ", context", first + count, options_.depth);
    }
    return {};
  }

  // Seconds of the whole prompt with the logits of its last token.
  double prompt() {
    const auto start = std::chrono::steady_clock::now();
    const float* last = nullptr;  // hidden state
    for (int64_t first = 0; first < options_.prompt_tokens; first += kLongestPass) {
      const int64_t count = std::min(kLongestPass, options_.prompt_tokens - first);
      const float* hidden =
          forward(std::span(prompt_).subspan(static_cast<size_t>(first), static_cast<size_t>(count)), options_.depth + first);
      last = hidden + (count - 1) * network_.model().spec.hidden;
    }
    network_.head(last, 1, logits_.data());
    return seconds_since(start);
  }

  // Seconds of `count` tokens chosen greedily. The hash is not timed.
  double decode(int64_t count, uint64_t& hash) {
    int32_t token = prompt_[0];
    double seconds = 0;
    hash = 0;
    for (int64_t i = 0; i < count; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const float* hidden = forward({&token, 1}, options_.depth + i);
      const Network::Choice choice = network_.choose(hidden);
      token = choice.token;
      seconds += seconds_since(start);
      network_.backend().download(logits_.data(), choice.logits, logits_.size() * sizeof(float));
      hash = hash64(std::as_bytes(std::span<const float>(logits_)), hash);
    }
    return seconds;
  }

 private:
  const float* forward(std::span<const int32_t> tokens, int64_t first_position) {
    return network_.forward(
        {.tokens = tokens, .first_position = first_position, .sequence_length = longest_run(options_), .cache = &cache_});
  }

  Network& network_;
  const SpeedOptions& options_;
  KvCache& cache_;
  std::vector<int32_t> prompt_;
  std::vector<float> logits_;
};

}  // namespace

ReadLoop::ReadLoop(ThreadPool& threads, int64_t bytes)
    : threads_(threads),
      words_(Buffer<uint64_t>::uninitialized(static_cast<size_t>(bytes / 8))),
      sums_(static_cast<size_t>(threads.size())) {
  threads_.run(static_cast<int64_t>(words_.size()), 1 << 17, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) words_[static_cast<size_t>(i)] = static_cast<uint64_t>(i);
  });
}

double ReadLoop::bytes_per_second() {
  // Four streams of 256 KiB at a time, as many misses as the processor can have under way, and of each line one word: lines come whole, and
  // nothing but memory is waited for.
  constexpr int64_t kStreams = 4, kLineWords = 8, kStreamWords = int64_t{1} << 15, kChunkWords = kStreams * kStreamWords;
  const auto start = std::chrono::steady_clock::now();
  threads_.run(static_cast<int64_t>(words_.size()) / kChunkWords, 1, [&](int64_t begin, int64_t end, int thread) {
    uint64_t sums[kStreams] = {};
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const uint64_t* words = words_.data() + chunk * kChunkWords;
      for (int64_t i = 0; i < kStreamWords; i += kLineWords)
        for (int64_t s = 0; s < kStreams; ++s) sums[s] += words[s * kStreamWords + i];
    }
    for (const uint64_t sum : sums) sums_[static_cast<size_t>(thread)] += sum;
  });
  return static_cast<double>(words_.size() * sizeof(uint64_t)) / seconds_since(start);
}

ReadMeter::ReadMeter(Backend& backend, ThreadPool& threads) : backend_(backend) {
  if (backend.is_host()) loop_.emplace(threads);
}

double ReadMeter::bytes_per_second() { return loop_ ? loop_->bytes_per_second() : backend_.read_bytes_per_second(); }

Status check_speed(const ModelSpec& spec, const std::string& source, const SpeedOptions& options) {
  if (options.prompt_tokens < 1 || options.answer_tokens < 1 || options.depth < 0 || options.repetitions < 1)
    return bad_usage("prompt, answer and repetitions must be at least 1, the depth at least 0");
  const int64_t own = longest_run(options) - options.depth;
  if (options.depth > 0 && longest_run(options) > spec.context)
    return bad_usage("{} tokens behind {} others: {} was made for {}, so that the depth can be up to {}", own, options.depth, source,
                     spec.context, std::max<int64_t>(0, spec.context - own));
  if (own > spec.context) return bad_usage("{} tokens: {} was made for {}", own, source, spec.context);
  return {};
}

Result<SpeedResult> measure_speed(Network& network, const SpeedOptions& options, const Context& context) {
  const ModelSpec& spec = network.model().spec;
  TQ_TRY(check_speed(spec, network.model().source, options));
  // All that a pass may need, so that none of them ends for want of memory.
  TQ_TRY(network.reserve({.rows = std::max(std::min(kLongestPass, options.prompt_tokens), std::min(kFillTokens, options.depth)),
                          .head_rows = 1,
                          .capacity = longest_run(options)}));
  TQ_ASSIGN(KvCache cache, KvCache::create(network.backend(), spec, KvType::kF16, longest_run(options)));
  Run run(network, options, cache);
  TQ_TRY(run.fill(context));
  ReadMeter read(network.backend(), context.threads);
  SpeedResult result;
  result.bytes_per_token = network.bytes_per_token();
  std::vector<double> prompt, decode, reading;
  run.decode(std::min<int64_t>(4, options.answer_tokens), result.logits_hash);  // pages, caches, clocks
  for (int i = 0; i < options.repetitions; ++i) {
    if (context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    for (int pass = 0; pass < 4; ++pass) reading.push_back(read.bytes_per_second());
    decode.push_back(run.decode(options.answer_tokens, result.logits_hash));
    for (int pass = 0; pass < 4; ++pass) reading.push_back(read.bytes_per_second());
    prompt.push_back(run.prompt());
    context.listener.progress(network.model().source, i + 1, options.repetitions);
  }
  result.prompt_tokens_per_second = static_cast<double>(options.prompt_tokens) / median(prompt);
  result.decode_tokens_per_second = static_cast<double>(options.answer_tokens) / median(decode);
  result.decode_bytes_per_second = result.decode_tokens_per_second * static_cast<double>(result.bytes_per_token);
  result.read_bytes_per_second = median(reading);
  return result;
}

}  // namespace tq
