// Generation. No threads, no sockets inside: submit requests, step, read what happened.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graph/network.h"
#include "run/sampler.h"

namespace tq {

struct Request {
  std::vector<TokenId> prompt;
  SamplerOptions sampler;
  int64_t max_tokens = -1;           // of the answer; negative: until the context is full
  std::vector<std::string> stop;     // texts that end the answer; they are not part of it
  std::vector<TokenId> end_of_turn;  // ids that end the answer, beyond the tokenizer's
  bool ignore_end_of_turn = false;
};

// kContext: the context is full. kNotFinite: the logits are no numbers, so the model's file or its arithmetic is broken.
enum class Finish : uint8_t { kEndOfTurn, kStopText, kLength, kContext, kCancelled, kNotFinite };

struct Event {
  int64_t id = 0;
  std::string text;              // new text; whole characters
  std::vector<TokenId> tokens;   // new tokens, the one that ends the turn included
  std::optional<Finish> finish;  // the request's last event
};

struct RequestStats {
  int64_t prompt_tokens = 0, reused_tokens = 0, answer_tokens = 0;
  double prompt_seconds = 0, decode_seconds = 0;
  uint64_t logits_hash = 0;  // of all logits that tokens were chosen from
};

struct EngineOptions {
  // Tokens that a sequence may have; 0: the model's own, or as much of it as the machine gives, on a device at most 16384.
  int64_t context = 0;
  KvType kv_type = KvType::kF16;
  int64_t prefill_chunk = 512;
  Precision precision = Precision::kInt8;
};

// One sequence at a time, in order of submission; the cache of the last one is reused as far as the next prompt begins like it.
class Engine {
 public:
  // Errors: kNoResource for the cache.
  static Result<Engine> create(Network& network, const Tokenizer& tokenizer, const EngineOptions& options);

  // Errors: kUsage for an empty prompt, a token outside the vocabulary, or a prompt that leaves no room in the context.
  Result<int64_t> submit(Request request);
  void cancel(int64_t id);
  bool idle() const { return queue_.empty() && !active_; }
  // A piece of work: one chunk of a prompt or one token.
  std::vector<Event> step();
  const RequestStats& stats(int64_t id) const { return stats_.at(id); }
  int64_t context() const { return context_; }

 private:
  struct Active {
    int64_t id;
    Request request;
    Sampler sampler;
    StreamDecoder decoder;
    std::vector<TokenId> tokens;  // prompt and answer
    int64_t done = 0;             // tokens whose keys and values are stored
    int64_t answered = 0;
    std::string held;  // text that may be the beginning of a stop text
  };
  Engine(Network& network, const Tokenizer& tokenizer, const EngineOptions& options, KvCache cache);
  void start_next();
  Event prefill();
  Event decode();
  Event emit(std::optional<TokenId> token);
  bool ends_turn(TokenId token) const;
  Event finish(Event event, Finish reason);
  std::optional<TokenId> choose(const float* hidden);  // none: logits that are no numbers

  Network* network_;
  const Tokenizer* tokenizer_;
  EngineOptions options_;
  KvCache cache_;
  int64_t context_;
  std::vector<TokenId> cached_;  // what the cache holds
  std::deque<std::pair<int64_t, Request>> queue_;
  std::optional<Active> active_;
  std::map<int64_t, RequestStats> stats_;
  std::vector<int64_t> cancelled_;
  std::vector<float> logits_;
  int64_t next_id_ = 1;
};

}  // namespace tq
