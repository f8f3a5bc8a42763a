#include "eval/speed.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "base/hash.h"
#include "base/rng.h"
#include "eval/statistics.h"

namespace tq {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary) {
  Rng rng(1);
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
        prompt_(random_tokens(options.prompt_tokens, network.model().spec.vocabulary)),
        logits_(static_cast<size_t>(network.model().spec.vocabulary)) {}

  // Seconds of the whole prompt with the logits of its last token.
  double prompt() {
    const auto start = std::chrono::steady_clock::now();
    const float* hidden = network_.forward({.tokens = prompt_, .cache = &cache_});
    network_.head(hidden + (options_.prompt_tokens - 1) * network_.model().spec.hidden, 1, logits_.data());
    return seconds_since(start);
  }

  // Seconds of `count` tokens chosen greedily from an empty context. The hash is not timed.
  double decode(int64_t count, uint64_t& hash) {
    int32_t token = prompt_[0];
    double seconds = 0;
    hash = 0;
    for (int64_t i = 0; i < count; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const float* hidden = network_.forward({.tokens = {&token, 1}, .first_position = i, .cache = &cache_});
      const Network::Choice choice = network_.choose(hidden);
      token = choice.token;
      seconds += seconds_since(start);
      network_.backend().download(logits_.data(), choice.logits, logits_.size() * sizeof(float));
      hash = hash64(std::as_bytes(std::span<const float>(logits_)), hash);
    }
    return seconds;
  }

 private:
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
  // Four streams of 256 KiB at a time, as many misses as the processor can have under way, and independent sums: the loop waits for memory
  // alone.
  constexpr int64_t kStreams = 4, kLanes = 8, kStreamWords = int64_t{1} << 15, kChunkWords = kStreams * kStreamWords;
  const auto start = std::chrono::steady_clock::now();
  threads_.run(static_cast<int64_t>(words_.size()) / kChunkWords, 1, [&](int64_t begin, int64_t end, int thread) {
    uint64_t sums[kStreams][kLanes] = {};
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const uint64_t* words = words_.data() + chunk * kChunkWords;
      for (int64_t i = 0; i < kStreamWords; i += kLanes)
        for (int64_t s = 0; s < kStreams; ++s)
          for (int64_t j = 0; j < kLanes; ++j) sums[s][j] += words[s * kStreamWords + i + j];
    }
    for (const auto& stream : sums)
      for (const uint64_t sum : stream) sums_[static_cast<size_t>(thread)] += sum;
  });
  return static_cast<double>(words_.size() * sizeof(uint64_t)) / seconds_since(start);
}

Result<SpeedResult> measure_speed(Network& network, const SpeedOptions& options, const Context& context) {
  const ModelSpec& spec = network.model().spec;
  const int64_t longest = std::max(options.prompt_tokens, options.answer_tokens);
  if (options.prompt_tokens < 1 || options.answer_tokens < 1 || options.repetitions < 1)
    return bad_usage("prompt, answer and repetitions must be at least 1");
  if (longest > spec.context) return bad_usage("{} tokens: {} was made for {}", longest, network.model().source, spec.context);
  TQ_ASSIGN(KvCache cache, KvCache::create(network.backend(), spec, KvType::kF16, longest));
  Run run(network, options, cache);
  const bool is_host = network.backend().is_host();
  std::optional<ReadLoop> read;
  if (is_host) read.emplace(context.threads);
  const auto read_speed = [&] { return is_host ? read->bytes_per_second() : network.backend().read_bytes_per_second(); };
  SpeedResult result;
  result.bytes_per_token = network.bytes_per_token();
  std::vector<double> prompt, decode, reading;
  run.decode(std::min<int64_t>(4, options.answer_tokens), result.logits_hash);  // pages, caches, clocks
  for (int i = 0; i < options.repetitions; ++i) {
    if (context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    for (int pass = 0; pass < 4; ++pass) reading.push_back(read_speed());
    decode.push_back(run.decode(options.answer_tokens, result.logits_hash));
    for (int pass = 0; pass < 4; ++pass) reading.push_back(read_speed());
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
