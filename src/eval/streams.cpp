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

Request random_request(const StreamsOptions& options, int64_t vocabulary, Rng& rng) {
  Request request{.max_tokens = options.answer_tokens, .ignore_end_of_turn = true};
  request.sampler.temperature = 0.0f;
  for (int64_t i = 0; i < options.prompt_tokens; ++i)
    request.prompt.push_back(static_cast<TokenId>(rng.below(static_cast<uint64_t>(vocabulary))));
  return request;
}

class Round {
 public:
  Round(Network& network, Engine& engine, const StreamsOptions& options, const Context& context)
      : network_(network), engine_(engine), options_(options), context_(context) {}

  // Every round has other prompts, so that no keys are there already.
  Status run(uint64_t seed) {
    Rng rng(seed);
    std::vector<int64_t> ids;
    const auto start = Clock::now();
    for (int64_t i = 0; i < options_.streams; ++i) {
      TQ_ASSIGN(const int64_t id, engine_.submit(random_request(options_, network_.model().spec.vocabulary, rng)));
      ids.push_back(id);
    }
    double decode = 0;
    int64_t answering = 0, decoded = 0;
    while (!engine_.idle()) {
      if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      const bool is_decode = answering == options_.streams;
      const auto begin = Clock::now();
      const std::vector<Event> events = engine_.step();
      if (is_decode) decode += seconds_since(begin), decoded += static_cast<int64_t>(events.size());
      for (const Event& event : events) {
        if (event.finish == Finish::kNotFinite) return bad_input("{}: its logits are no finite numbers", network_.model().source);
        answering += engine_.stats(event.id).answer_tokens == 1;
      }
    }
    all_.push_back(static_cast<double>(options_.streams * options_.answer_tokens) / seconds_since(start));
    if (decoded > 0) decode_.push_back(static_cast<double>(decoded) / decode);
    std::vector<double> first;
    for (const int64_t id : ids) {
      first.push_back(engine_.stats(id).first_token_seconds);
      engine_.forget(id);
    }
    last_.push_back(*std::max_element(first.begin(), first.end()));
    first_.push_back(median(std::move(first)));
    return {};
  }

  StreamsResult result() const {
    return {.tokens_per_second = median(all_),
            .decode_tokens_per_second = decode_.empty() ? 0 : median(decode_),
            .first_token_seconds = median(first_),
            .last_first_token_seconds = median(last_)};
  }

 private:
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
  const int64_t length = options.prompt_tokens + options.answer_tokens;
  if (length > spec.context) return bad_usage("{} tokens: {} was made for {}", length, source, spec.context);
  return {};
}

Result<StreamsResult> measure_streams(Network& network, const StreamsOptions& options, const Context& context) {
  const ModelSpec& spec = network.model().spec;
  TQ_TRY(check_streams(spec, network.model().source, options));
  const int64_t length = options.prompt_tokens + options.answer_tokens;
  const uint64_t bytes = kv_cache_bytes(spec, KvType::kF16, length) * static_cast<uint64_t>(options.streams);
  const EngineOptions engine_options{
      .context = length, .kv_bytes = bytes, .max_sequences = options.streams, .precision = options.precision};
  TQ_ASSIGN(Engine engine, Engine::create(network, nullptr, engine_options));
  Round round(network, engine, options, context);
  for (int i = 0; i < options.repetitions; ++i) {
    TQ_TRY(round.run(static_cast<uint64_t>(i)));
    context.listener.progress(network.model().source, i + 1, options.repetitions);
  }
  StreamsResult result = round.result();
  result.kv_bytes = bytes;
  result.memory_bytes = network.backend().bytes_in_use();
  result.footprint_bytes = card_footprint(spec, card_matrices(network.model()), engine.size(), bytes).all();
  return result;
}

}  // namespace tq
