#include "run/engine.h"

#include <algorithm>
#include <chrono>

#include "base/seconds.h"

namespace tq {
namespace {

constexpr int64_t kLeastContext = 4096;
constexpr int64_t kDeviceContext = 16384;

using Clock = std::chrono::steady_clock;

}  // namespace

Engine::Engine(Engine&&) noexcept = default;
Engine::~Engine() = default;

Result<Engine::Memories> Engine::allocate(Backend& backend, const ModelSpec& spec, const EngineOptions& options, const KvCacheSize& size) {
  const int64_t table = (size.capacity + size.page_tokens - 1) / size.page_tokens;
  const auto bytes = [&](int64_t of_each) { return static_cast<uint64_t>(options.max_sequences * of_each) * sizeof(float); };
  TQ_ASSIGN(KvCache cache, KvCache::create(backend, spec, size));
  TQ_ASSIGN(Memory tables, backend.allocate(bytes(table)));
  TQ_ASSIGN(Memory states, backend.allocate(bytes(spec.hidden)));
  TQ_ASSIGN(Memory rows, backend.allocate(bytes(1)));
  return Memories{std::move(cache), std::move(tables), std::move(states), std::move(rows)};
}

Network::Size Engine::size_of(const EngineOptions& options, int64_t context) {
  return {.rows = std::min(options.prefill_chunk, options.max_sequences * context) + options.max_sequences,
          .head_rows = options.max_sequences,
          .capacity = context,
          .precision = options.precision};
}

Result<Engine> Engine::create(Network& network, const Tokenizer* tokenizer, EngineOptions options) {
  const ModelSpec& spec = network.model().spec;
  TQ_CHECK(options.max_sequences > 0 && options.prefill_chunk >= 0);
  if (options.prefill_chunk == 0) options.prefill_chunk = usual_prompt_chunk(network.backend());
  KvCacheSize size{.type = options.kv_type, .page_tokens = options.page_tokens};
  // Memory of the host is taken as it fills, that of a device at once.
  const int64_t largest = network.backend().is_host() ? spec.context : std::min(spec.context, kDeviceContext);
  size.capacity = options.context > 0 ? options.context : options.kv_bytes > 0 ? spec.context : largest;
  const auto set_pages = [&] { size.pages = (size.capacity + size.page_tokens - 1) / size.page_tokens; };
  set_pages();
  if (options.kv_bytes > 0) {
    const uint64_t page = kv_page_bytes(spec, size.type, size.page_tokens);
    if (options.kv_bytes < page)
      return bad_usage("{} bytes are too few for keys and values: a page of {} tokens takes {}", options.kv_bytes, size.page_tokens, page);
    size.pages = static_cast<int64_t>(options.kv_bytes / page);
    size.capacity = std::min(size.capacity, size.pages * size.page_tokens);
  }
  // All that a step may need, so that none of them ends for want of memory.
  TQ_TRY(network.reserve(size_of(options, size.capacity)));
  auto memories = allocate(network.backend(), spec, options, size);
  while (!memories && options.context <= 0 && options.kv_bytes == 0 && size.capacity > kLeastContext) {
    size.capacity = std::max(kLeastContext, size.capacity / 2);
    set_pages();
    memories = allocate(network.backend(), spec, options, size);
  }
  if (!memories) return Unexpected(memories.error());
  return Engine(network, tokenizer, options, size.pages, std::move(*memories));
}

Engine::Engine(Network& network, const Tokenizer* tokenizer, const EngineOptions& options, int64_t pages, Memories memories)
    : network_(&network),
      tokenizer_(tokenizer),
      options_(options),
      memories_(std::move(memories)),
      pool_(pages, options.page_tokens),
      context_(memories_.cache.capacity()),
      logits_(network) {
  for (int64_t slot = options.max_sequences - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

PageCounts Engine::pages() const {
  return {pool_.pages(), pool_.in_use(), kv_page_bytes(network_->model().spec, options_.kv_type, pool_.page_tokens())};
}

Result<int64_t> Engine::submit(Request request) {
  const auto length = static_cast<int64_t>(request.prompt.size());
  if (length == 0) return bad_usage("the prompt is empty");
  const int64_t largest = network_->model().spec.context;
  if (length >= context_ && options_.kv_bytes > 0 && context_ < largest)
    return bad_usage("the prompt has {} tokens, the memory for keys and values holds {}: shorten it or give more memory", length, context_);
  if (length >= context_ && context_ < largest)
    return bad_usage("the prompt has {} tokens, the context {}: shorten it or ask for a larger context (--ctx, up to {})", length, context_,
                     largest);
  if (length >= context_) return bad_usage("the prompt has {} tokens, the model's context {}: shorten it", length, context_);
  for (const TokenId token : request.prompt)
    if (token < 0 || token >= network_->model().spec.vocabulary) return bad_usage("token {} is not in the vocabulary", token);
  stats_[next_id_].prompt_tokens = length;
  waiting_.push_back(std::make_unique<Sequence>(next_id_, std::move(request), tokenizer_));
  return next_id_++;
}

void Engine::cancel(int64_t id) {
  const auto end_in = [&](auto& sequences) {
    const auto found = std::find_if(sequences.begin(), sequences.end(), [id](const auto& each) { return each->id() == id; });
    if (found == sequences.end()) return;
    events_.push_back((*found)->finish(Finish::kCancelled));
    release(**found);
    sequences.erase(found);
  };
  end_in(waiting_);
  end_in(running_);
}

std::vector<Event> Engine::step() {
  admit();
  const std::vector<Share> shares = plan();
  if (!shares.empty()) run(shares);
  return std::exchange(events_, {});
}

int32_t* Engine::table_of(const Sequence& sequence) const { return memories_.tables.as<int32_t>() + sequence.slot * pages_for(context_); }

// The front of the queue, as long as its tokens fit beside those that run, with another page for each of these.
void Engine::admit() {
  while (!waiting_.empty() && !free_slots_.empty() && start(*waiting_.front())) {
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

bool Engine::start(Sequence& sequence) {
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  find_beginning(sequence);
  const auto missing = [this](const Sequence& of) { return pages_for(of.length()) - static_cast<int64_t>(of.pages.size()); };
  int64_t wanted = missing(sequence);
  for (const SequencePointer& other : running_) wanted += missing(*other) + 1;
  if (!running_.empty() && wanted > pool_.available()) {
    release(sequence);
    return false;
  }
  copy_alike(sequence);
  upload_pages(sequence, 0);
  // After a preemption it finds pages that it has made itself.
  if (RequestStats& own = stats_[sequence.id()]; !sequence.is_answering() && own.preemptions == 0) own.reused_tokens = sequence.stored;
  return true;
}

// Full pages that hold what the sequence begins with. The last token is run again, for its logits.
void Engine::find_beginning(Sequence& sequence) {
  sequence.is_long = rotates_as_long(network_->model().spec, sequence.length());
  sequence.prefix = PagePool::root(sequence.is_long);
  const std::span<const TokenId> tokens(sequence.tokens());
  const int64_t size = pool_.page_tokens();
  while (sequence.stored + size < sequence.length()) {
    const auto found = pool_.find(sequence.prefix, tokens.subspan(static_cast<size_t>(sequence.stored), static_cast<size_t>(size)));
    if (!found) break;
    sequence.pages.push_back(found->page);
    sequence.prefix = found->prefix;
    sequence.stored += size;
  }
  sequence.known_pages = static_cast<int64_t>(sequence.pages.size());
}

// Of the page that the sequence goes on in, what another page holds already.
void Engine::copy_alike(Sequence& sequence) {
  const int64_t count = std::min(pool_.page_tokens(), sequence.length() - 1 - sequence.stored);
  if (count < 1) return;
  const std::span<const TokenId> tokens(sequence.tokens());
  const auto alike = pool_.find_alike(sequence.prefix, tokens.subspan(static_cast<size_t>(sequence.stored), static_cast<size_t>(count)));
  if (!alike) return;
  if (const auto page = pool_.take()) {
    memories_.cache.copy_page(network_->backend(), alike->page, *page);
    sequence.pages.push_back(*page);
    sequence.stored += alike->tokens;
  }
  pool_.release(alike->page);
}

// What it has computed can be found until its pages are needed.
void Engine::release(Sequence& sequence) {
  const int64_t known = sequence.known_pages * pool_.page_tokens(), rest = sequence.stored - known;
  if (rest > 0 && rotates_as_long(network_->model().spec, sequence.length()) == sequence.is_long)
    pool_.publish(sequence.pages[static_cast<size_t>(sequence.known_pages)], sequence.prefix,
                  std::span(sequence.tokens()).subspan(static_cast<size_t>(known), static_cast<size_t>(rest)));
  for (auto page = sequence.pages.rbegin(); page != sequence.pages.rend(); ++page) pool_.release(*page);
  sequence.pages.clear();
  sequence.stored = sequence.known_pages = 0;
  if (sequence.slot >= 0) free_slots_.push_back(sequence.slot);
  sequence.slot = -1;
}

// The oldest first, so that only younger ones, whose turn has not come, lose their pages.
std::vector<Engine::Share> Engine::plan() {
  std::vector<Share> shares;
  int64_t left = options_.prefill_chunk;
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    const int64_t missing = sequence.length() - sequence.stored, count = missing == 1 ? 1 : std::min(missing, left);
    if (count == 0) continue;
    if (!make_room(sequence, sequence.stored + count)) break;
    if (missing > 1) left -= count;
    shares.push_back({&sequence, count});
  }
  return shares;
}

// Pages for so many tokens, if need be those of younger sequences; false when it had to give up its own.
bool Engine::make_room(Sequence& sequence, int64_t tokens) {
  while (!take_pages(sequence, tokens)) {
    const bool is_own = running_.back().get() == &sequence;
    TQ_CHECK(running_.size() > 1);  // a sequence alone fits: submit() sees to it
    preempt_youngest();
    if (is_own) return false;
  }
  return true;
}

bool Engine::take_pages(Sequence& sequence, int64_t tokens) {
  const size_t before = sequence.pages.size();
  const int64_t wanted = pages_for(tokens);
  while (static_cast<int64_t>(sequence.pages.size()) < wanted) {
    const auto page = pool_.take();
    if (!page) break;
    sequence.pages.push_back(*page);
  }
  upload_pages(sequence, before);
  return static_cast<int64_t>(sequence.pages.size()) == wanted;
}

// The sequence's pages from the `first`-th on, into its table.
void Engine::upload_pages(const Sequence& sequence, size_t first) {
  const size_t count = sequence.pages.size() - first;
  if (count > 0) network_->backend().upload(table_of(sequence) + first, sequence.pages.data() + first, count * sizeof(int32_t));
}

void Engine::preempt_youngest() {
  Sequence& sequence = *running_.back();
  ++stats_[sequence.id()].preemptions;
  release(sequence);
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
}

void Engine::run(const std::vector<Share>& shares) {
  const auto start = Clock::now();
  std::vector<TokenId> tokens;
  std::vector<Stretch> stretches;
  for (const auto& [sequence, count] : shares) {
    const auto first = sequence->tokens().begin() + sequence->stored;
    tokens.insert(tokens.end(), first, first + count);
    stretches.push_back({count, sequence->stored, sequence->length(), table_of(*sequence)});
  }
  const float* hidden =
      network_->forward_batch({.tokens = tokens, .stretches = stretches, .cache = &memories_.cache, .precision = options_.precision});
  compute_logits(shares, hidden);
  std::vector<double*> clocks;
  size_t row = 0;
  for (const auto& [sequence, count] : shares) {
    RequestStats& stats = stats_[sequence->id()];
    clocks.push_back(sequence->is_answering() ? &stats.decode_seconds : &stats.prompt_seconds);
    sequence->stored += count;
    publish(*sequence);
    if (sequence->stored < sequence->length()) continue;
    const bool is_first = !sequence->is_answering();
    events_.push_back(logits_.next(row++, context_, stats));
    if (is_first) stats.first_token_seconds = seconds_since(sequence->submitted);
    if (events_.back().finish) release(*sequence);
  }
  for (double* clock : clocks) *clock += seconds_since(start);
  std::erase_if(running_, [](const SequencePointer& sequence) { return sequence->slot < 0; });
}

// Full pages can be found by others from now on, unless some of the sequence was rotated in another way than the rest.
void Engine::publish(Sequence& sequence) {
  if (rotates_as_long(network_->model().spec, sequence.length()) != sequence.is_long) return;
  const std::span<const TokenId> tokens(sequence.tokens());
  const auto size = static_cast<size_t>(pool_.page_tokens());
  while ((sequence.known_pages + 1) * pool_.page_tokens() <= sequence.stored) {
    const auto at = static_cast<size_t>(sequence.known_pages++);
    sequence.prefix = pool_.publish(sequence.pages[at], sequence.prefix, tokens.subspan(at * size, size));
  }
}

void Engine::compute_logits(const std::vector<Share>& shares, const float* hidden) {
  const ModelSpec& spec = network_->model().spec;
  Backend& backend = network_->backend();
  std::vector<int32_t> rows;
  std::vector<Sequence*> sequences;
  int64_t end = 0;
  for (const auto& [sequence, count] : shares) {
    end += count;
    if (sequence->stored + count < sequence->length()) continue;
    rows.push_back(static_cast<int32_t>(end - 1));
    sequences.push_back(sequence);
  }
  const auto count = static_cast<int64_t>(rows.size());
  if (count == 0) return;
  const float* states = hidden + rows[0] * spec.hidden;
  if (rows.back() - rows[0] + 1 != count) {
    backend.upload(memories_.rows.as<int32_t>(), rows.data(), rows.size() * sizeof(int32_t));
    backend.gather({.input = hidden,
                    .row = memories_.rows.as<int32_t>(),
                    .output = memories_.states.as<float>(),
                    .count = count,
                    .width = spec.hidden});
    states = memories_.states.as<float>();
  }
  logits_.compute(states, std::move(sequences), options_.precision);
}

}  // namespace tq
