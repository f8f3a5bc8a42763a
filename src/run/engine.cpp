#include "run/engine.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "base/hash.h"

namespace tq {
namespace {

constexpr int64_t kLeastContext = 4096;
constexpr int64_t kDeviceContext = 16384;

class Stopwatch {
 public:
  explicit Stopwatch(double& total) : total_(total), start_(std::chrono::steady_clock::now()) {}
  ~Stopwatch() { total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double& total_;
  std::chrono::steady_clock::time_point start_;
};

// Where the first stop text begins in `text`, or npos.
size_t find_stop(const std::string& text, const std::vector<std::string>& stops) {
  size_t first = std::string::npos;
  for (const std::string& stop : stops)
    if (!stop.empty()) first = std::min(first, text.find(stop));
  return first;
}

// How many bytes at the end of `text` may be the beginning of a stop text.
size_t held_back(const std::string& text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops)
    for (size_t length = std::min(stop.size(), text.size()); length > longest; --length)
      if (text.compare(text.size() - length, length, stop, 0, length) == 0) longest = length;
  return longest;
}

}  // namespace

Result<Engine> Engine::create(Network& network, const Tokenizer& tokenizer, const EngineOptions& options) {
  const ModelSpec& spec = network.model().spec;
  // Memory of the host is taken as it fills, that of a device at once.
  const int64_t largest = network.backend().is_host() ? spec.context : std::min(spec.context, kDeviceContext);
  int64_t context = options.context > 0 ? options.context : largest;
  Result<KvCache> cache = KvCache::create(network.backend(), spec, options.kv_type, context);
  while (!cache && options.context <= 0 && context > kLeastContext) {
    context = std::max(kLeastContext, context / 2);
    cache = KvCache::create(network.backend(), spec, options.kv_type, context);
  }
  if (!cache) return Unexpected(cache.error());
  return Engine(network, tokenizer, options, std::move(*cache));
}

Engine::Engine(Network& network, const Tokenizer& tokenizer, const EngineOptions& options, KvCache cache)
    : network_(&network),
      tokenizer_(&tokenizer),
      options_(options),
      cache_(std::move(cache)),
      context_(cache_.capacity()),
      logits_(static_cast<size_t>(network.model().spec.vocabulary)) {}

Result<int64_t> Engine::submit(Request request) {
  const auto length = static_cast<int64_t>(request.prompt.size());
  if (length == 0) return bad_usage("the prompt is empty");
  const int64_t largest = network_->model().spec.context;
  if (length >= context_ && context_ < largest)
    return bad_usage("the prompt has {} tokens, the context {}: shorten it or ask for a larger context (--ctx, up to {})", length, context_,
                     largest);
  if (length >= context_) return bad_usage("the prompt has {} tokens, the model's context {}: shorten it", length, context_);
  for (const TokenId token : request.prompt)
    if (token < 0 || token >= network_->model().spec.vocabulary) return bad_usage("token {} is not in the vocabulary", token);
  queue_.emplace_back(next_id_, std::move(request));
  return next_id_++;
}

void Engine::cancel(int64_t id) { cancelled_.push_back(id); }

std::vector<Event> Engine::step() {
  std::vector<Event> events;
  for (const int64_t id : std::exchange(cancelled_, {})) {
    const auto queued = std::find_if(queue_.begin(), queue_.end(), [&](const auto& entry) { return entry.first == id; });
    if (queued != queue_.end()) {
      queue_.erase(queued);
      events.push_back({.id = id, .text = {}, .tokens = {}, .finish = Finish::kCancelled});
    } else if (active_ && active_->id == id) {
      events.push_back(finish({.id = id, .text = {}, .tokens = {}, .finish = {}}, Finish::kCancelled));
    }
  }
  if (!active_) start_next();
  if (!active_) return events;
  const bool is_prefill = active_->done < static_cast<int64_t>(active_->request.prompt.size()) && active_->answered == 0;
  events.push_back(is_prefill ? prefill() : decode());
  return events;
}

void Engine::start_next() {
  if (queue_.empty()) return;
  auto [id, request] = std::move(queue_.front());
  queue_.pop_front();
  // The last token of the prompt is run again, for its logits.
  const auto limit = static_cast<int64_t>(std::min(cached_.size(), request.prompt.size() - 1));
  int64_t common = 0;
  while (common < limit && cached_[static_cast<size_t>(common)] == request.prompt[static_cast<size_t>(common)]) ++common;
  RequestStats& stats = stats_[id];
  stats.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  stats.reused_tokens = common;
  cached_.resize(static_cast<size_t>(common));
  active_.emplace(Active{id, request, Sampler(request.sampler), StreamDecoder(*tokenizer_, true), request.prompt, common, 0, {}});
}

std::optional<TokenId> Engine::choose(const float* hidden) {
  network_->head(hidden, 1, logits_.data(), options_.precision);
  RequestStats& stats = stats_[active_->id];
  stats.logits_hash = hash64(std::as_bytes(std::span<const float>(logits_)), stats.logits_hash);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  if (!std::all_of(logits_.begin(), logits_.end(), [](float logit) { return logit < kInfinity; })) return std::nullopt;
  return active_->sampler.next(logits_, active_->tokens);
}

Event Engine::prefill() {
  Active& active = *active_;
  std::optional<TokenId> token;
  const auto length = static_cast<int64_t>(active.request.prompt.size());
  const int64_t count = std::min(options_.prefill_chunk, length - active.done);
  {
    const Stopwatch watch(stats_[active.id].prompt_seconds);
    const std::span<const TokenId> chunk(active.tokens.data() + active.done, static_cast<size_t>(count));
    const float* hidden = network_->forward(
        {.tokens = chunk, .first_position = active.done, .sequence_length = length, .cache = &cache_, .precision = options_.precision});
    active.done += count;
    cached_.insert(cached_.end(), chunk.begin(), chunk.end());
    if (active.done < length) return {.id = active.id, .text = {}, .tokens = {}, .finish = {}};
    token = choose(hidden + (count - 1) * network_->model().spec.hidden);
  }
  return emit(token);
}

Event Engine::decode() {
  Active& active = *active_;
  std::optional<TokenId> token;
  {
    const Stopwatch watch(stats_[active.id].decode_seconds);
    const std::span<const TokenId> last(&active.tokens.back(), 1);
    const float* hidden =
        network_->forward({.tokens = last, .first_position = active.done, .cache = &cache_, .precision = options_.precision});
    ++active.done;
    cached_.push_back(last[0]);
    token = choose(hidden);
  }
  return emit(token);
}

bool Engine::ends_turn(TokenId token) const {
  const auto has = [token](const std::vector<TokenId>& ids) { return std::find(ids.begin(), ids.end(), token) != ids.end(); };
  return !active_->request.ignore_end_of_turn && (has(tokenizer_->end_of_turn()) || has(active_->request.end_of_turn));
}

Event Engine::emit(std::optional<TokenId> chosen) {
  Active& active = *active_;
  Event event{.id = active.id, .text = {}, .tokens = {}, .finish = {}};
  if (!chosen) return finish(std::move(event), Finish::kNotFinite);
  if (active.request.max_tokens == 0) return finish(std::move(event), Finish::kLength);
  const TokenId token = *chosen;
  event.tokens = {token};
  if (ends_turn(token)) return finish(std::move(event), Finish::kEndOfTurn);
  active.tokens.push_back(token);
  ++active.answered;
  ++stats_[active.id].answer_tokens;
  active.held += active.decoder.push(token);
  if (const size_t stop = find_stop(active.held, active.request.stop); stop != std::string::npos) {
    active.held.resize(stop);
    return finish(std::move(event), Finish::kStopText);
  }
  if (active.request.max_tokens >= 0 && active.answered >= active.request.max_tokens) return finish(std::move(event), Finish::kLength);
  if (static_cast<int64_t>(active.tokens.size()) >= context_) return finish(std::move(event), Finish::kContext);
  const size_t keep = held_back(active.held, active.request.stop);
  event.text = active.held.substr(0, active.held.size() - keep);
  active.held.erase(0, event.text.size());
  return event;
}

Event Engine::finish(Event event, Finish reason) {
  event.text = reason == Finish::kStopText ? active_->held : active_->held + active_->decoder.finish();
  event.finish = reason;
  active_.reset();
  return event;
}

}  // namespace tq
