// Generation of many requests at once. No threads, no sockets inside: submit requests, step, read what happened.
#pragma once

#include <deque>
#include <map>
#include <memory>

#include "graph/network.h"
#include "run/page_pool.h"
#include "run/request.h"
#include "run/step_logits.h"

namespace tq {

struct EngineOptions {
  // Tokens that a sequence may have; 0: the model's own, or as much of it as the memory for keys and values holds.
  int64_t context = 0;
  // Of all pages together; 0: what one sequence of the whole context needs, or as much of it as the machine gives, on a device at most for
  // 16384 tokens. The host's memory is taken as it fills.
  uint64_t kv_bytes = 0;
  KvType kv_type = KvType::kF16;
  int64_t page_tokens = kPageTokens;  // a power of two
  int64_t max_sequences = 64;         // that are computed at once; more wait
  int64_t prefill_chunk = 0;          // tokens of prompts in one step, of all sequences together; 0: usual_prompt_chunk()
  // kInvariant: what a request is answered does not depend on the others.
  Precision precision = Precision::kInt8;
};

struct PageCounts {
  int64_t all = 0;
  int64_t in_use = 0;
  uint64_t bytes = 0;  // of one
};

// Continuous batching: a step computes the next token of every answer and a chunk of the prompts that have come, all in one pass. Requests
// start in order of submission, as pages become free. Full pages of equal beginnings are shared, of others what is equal is copied. When
// pages run out, the youngest request gives up its own and is computed again when there is room; the oldest always goes on.
class Engine {
 public:
  // The network and the tokenizer must outlive it; without a tokenizer events have no text. Errors: kNoResource for the memory, kUsage for
  // too little of it.
  static Result<Engine> create(Network& network, const Tokenizer* tokenizer, EngineOptions options);
  Engine(Engine&&) noexcept;
  ~Engine();

  // Errors: kUsage for an empty prompt, a token outside the vocabulary, or a prompt that leaves no room in the context. Others are not
  // touched by it.
  Result<int64_t> submit(Request request);
  // At any time; its pages are free at once, its last event comes with the next step. Nothing for an unknown or finished request.
  void cancel(int64_t id);
  bool idle() const { return waiting_.empty() && running_.empty() && events_.empty(); }
  // One pass. Every submitted request has one event with `finish` in the end.
  std::vector<Event> step();

  // Of a request that was submitted and not forgotten.
  const RequestStats& stats(int64_t id) const { return stats_.at(id); }
  // A finished request's figures are not needed any more.
  void forget(int64_t id) { stats_.erase(id); }
  int64_t context() const { return context_; }
  // Of its steps, at most.
  Network::Size size() const { return size_of(options_, context_); }
  PageCounts pages() const;

 private:
  using SequencePointer = std::unique_ptr<Sequence>;
  // What a sequence has in a step.
  struct Share {
    Sequence* sequence;
    int64_t tokens;
  };
  struct Memories {
    KvCache cache;
    Memory tables;  // [max_sequences, pages of the context] int32
    Memory states;  // [max_sequences, H]: hidden states that logits are wanted of
    Memory rows;    // [max_sequences] int32: where they come from
  };
  Engine(Network& network, const Tokenizer* tokenizer, const EngineOptions& options, int64_t pages, Memories memories);
  static Network::Size size_of(const EngineOptions& options, int64_t context);
  static Result<Memories> allocate(Backend& backend, const ModelSpec& spec, const EngineOptions& options, const KvCacheSize& size);

  int64_t pages_for(int64_t tokens) const { return (tokens + pool_.page_tokens() - 1) / pool_.page_tokens(); }
  int32_t* table_of(const Sequence& sequence) const;
  void admit();
  bool start(Sequence& sequence);
  void find_beginning(Sequence& sequence);
  void copy_alike(Sequence& sequence);
  std::vector<Share> plan();
  bool make_room(Sequence& sequence, int64_t tokens);
  bool take_pages(Sequence& sequence, int64_t tokens);
  void upload_pages(const Sequence& sequence, size_t first);
  void preempt_youngest();
  void release(Sequence& sequence);
  void run(const std::vector<Share>& shares);
  void publish(Sequence& sequence);
  // Of the shares that reach their sequence's end, in their order.
  void compute_logits(const std::vector<Share>& shares, const float* hidden);

  Network* network_;
  const Tokenizer* tokenizer_;
  EngineOptions options_;
  Memories memories_;
  PagePool pool_;
  int64_t context_;
  std::deque<SequencePointer> waiting_;
  std::vector<SequencePointer> running_;  // in order of submission
  std::vector<int64_t> free_slots_;
  std::vector<Event> events_;  // of the next step
  std::map<int64_t, RequestStats> stats_;
  StepLogits logits_;
  int64_t next_id_ = 1;
};

}  // namespace tq
