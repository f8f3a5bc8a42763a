#include "eval/streams.h"

#include <algorithm>
#include <chrono>

#include "base/rng.h"
#include "base/seconds.h"
#include "eval/statistics.h"
#include "graph/footprint.h"
#include "run/engine.h"

namespace tq {
namespace {

using Clock = std::chrono::steady_clock;

// Steps that prompts take at most: requests that are through answer meanwhile.
int64_t prompt_steps(const StreamsOptions& options) {
  return (options.streams * options.prompt_tokens + options.prompt_chunk - 1) / options.prompt_chunk + 1;
}
// Tokens that a sequence may come to have.
int64_t longest(const StreamsOptions& options) { return options.prompt_tokens + prompt_steps(options) + options.answer_tokens; }

class Rounds {
 public:
  Rounds(Network& network, Engine& engine, const StreamsOptions& options, const Context& context)
      : network_(network), engine_(engine), options_(options), context_(context) {}

  // All requests, from the first submission to the last token.
  Status answer(uint64_t seed) {
    const auto start = Clock::now();
    TQ_ASSIGN(const std::vector<int64_t> ids, submit(seed, options_.answer_tokens));
    while (!engine_.idle()) TQ_TRY(step());
    all_.push_back(static_cast<double>(options_.streams * options_.answer_tokens) / seconds_since(start));
    std::vector<double> first;
    for (const int64_t id : ids) {
      first.push_back(engine_.stats(id).first_token_seconds);
      engine_.forget(id);
    }
    last_.push_back(*std::max_element(first.begin(), first.end()));
    first_.push_back(median(std::move(first)));
    return {};
  }

  // The steps in which every request answers and none has ended.
  Status decode(uint64_t seed) {
    TQ_ASSIGN(const std::vector<int64_t> ids, submit(seed, prompt_steps(options_) + options_.answer_tokens));
    const auto answers = [this](int64_t id) { return engine_.stats(id).answer_tokens > 0; };
    while (!std::all_of(ids.begin(), ids.end(), answers)) TQ_TRY(step());
    for (int64_t i = 0; i < kWarmSteps; ++i) TQ_TRY(step());
    const auto start = Clock::now();
    int64_t steps = 0;
    for (; steps + kWarmSteps < options_.answer_tokens; ++steps) TQ_TRY(step());
    if (steps > 0) decode_.push_back(static_cast<double>(options_.streams * steps) / seconds_since(start));
    for (const int64_t id : ids) engine_.cancel(id);
    while (!engine_.idle()) TQ_TRY(step());
    for (const int64_t id : ids) engine_.forget(id);
    return {};
  }

  StreamsResult result() const {
    return {.tokens_per_second = median(all_),
            .decode_tokens_per_second = decode_.empty() ? 0 : median(decode_),
            .first_token_seconds = median(first_),
            .last_first_token_seconds = median(last_)};
  }

 private:
  static constexpr int64_t kWarmSteps = 2;  // in which a device comes to record a pass of so many rows

  // Every seed has other prompts, so that no keys are there already.
  Result<std::vector<int64_t>> submit(uint64_t seed, int64_t answer_tokens) {
    const auto vocabulary = static_cast<uint64_t>(network_.model().spec.vocabulary);
    Rng rng(seed);
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < options_.streams; ++i) {
      Request request{.max_tokens = answer_tokens, .ignore_end_of_turn = true};
      request.sampler.temperature = 0.0f;
      for (int64_t t = 0; t < options_.prompt_tokens; ++t) request.prompt.push_back(static_cast<TokenId>(rng.below(vocabulary)));
      TQ_ASSIGN(const int64_t id, engine_.submit(std::move(request)));
      ids.push_back(id);
    }
    return ids;
  }
  Status step() {
    if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    for (const Event& event : engine_.step())
      if (event.finish == Finish::kNotFinite) return bad_input("{}: its logits are no finite numbers", network_.model().source);
    return {};
  }

  Network& network_;
  Engine& engine_;
  const StreamsOptions& options_;
  const Context& context_;
  std::vector<double> all_, decode_, first_, last_;  // of each round
};

}  // namespace

Status check_streams(const ModelSpec& spec, const std::string& source, const StreamsOptions& options) {
  if (options.streams < 1 || options.prompt_tokens < 1 || options.answer_tokens < 1 || options.repetitions < 1)
    return bad_usage("streams, prompt, answer and repetitions must be at least 1");
  const int64_t length = longest(options);
  if (length > spec.context)
    return bad_usage("{} of prompt, {} of answer and {} more while others' prompts come are {} tokens: {} was made for {}",
                     options.prompt_tokens, options.answer_tokens, prompt_steps(options), length, source, spec.context);
  return {};
}

Result<StreamsResult> measure_streams(Network& network, const StreamsOptions& options, const Context& context) {
  const ModelSpec& spec = network.model().spec;
  TQ_TRY(check_streams(spec, network.model().source, options));
  const int64_t length = longest(options);
  const uint64_t bytes = kv_cache_bytes(spec, KvType::kF16, length) * static_cast<uint64_t>(options.streams);
  const EngineOptions engine_options{.context = length,
                                     .kv_bytes = bytes,
                                     .max_sequences = options.streams,
                                     .prefill_chunk = options.prompt_chunk,
                                     .precision = options.precision};
  TQ_ASSIGN(Engine engine, Engine::create(network, nullptr, engine_options));
  Rounds rounds(network, engine, options, context);
  for (int i = 0; i < options.repetitions; ++i) {
    TQ_TRY(rounds.answer(static_cast<uint64_t>(2 * i)));
    TQ_TRY(rounds.decode(static_cast<uint64_t>(2 * i + 1)));
    context.listener.progress(network.model().source, i + 1, options.repetitions);
  }
  StreamsResult result = rounds.result();
  result.kv_bytes = bytes;
  result.memory_bytes = network.backend().bytes_in_use();
  result.footprint_bytes = card_footprint(spec, card_matrices(network.model()), engine.size(), bytes).all();
  return result;
}

}  // namespace tq
