// A request on its way through an engine: its tokens, its text, and where its keys and values lie.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "run/page_pool.h"
#include "run/request.h"

namespace tq {

class Sequence {
 public:
  // Without a tokenizer its events have no text, and no token but those of the request ends a turn.
  Sequence(int64_t id, Request request, const Tokenizer* tokenizer);

  int64_t id() const { return id_; }
  // Prompt and answer.
  const std::vector<TokenId>& tokens() const { return tokens_; }
  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }
  bool is_answering() const { return answered_ > 0; }

  // The next token of the answer, chosen from logits [V], which are changed; none: logits that are no numbers. What that makes of the
  // answer. context: tokens that the sequence may have.
  Event next(std::span<float> logits, int64_t context, RequestStats& stats);
  // The same from the largest of `vocabulary` logits alone; none, with nothing changed, where the sampler needs the others.
  std::optional<Event> next(std::span<const Ranked> largest, int64_t vocabulary, int64_t context, RequestStats& stats);
  int64_t wanted_ranks() const { return sampler_.wanted_ranks(); }
  // Its last event, with the text that was held back.
  Event finish(Finish reason);

  // The rest is the engine's.
  int64_t stored = 0;           // tokens whose keys and values lie in the pages
  std::vector<int32_t> pages;   // references to the pool's
  int64_t known_pages = 0;      // of them, that were found or published
  PagePool::Prefix prefix = 0;  // the beginning that ends with them
  bool is_long = false;         // rotated as long sequences are, from its beginning on
  int64_t slot = -1;            // of the engine's table of pages
  std::chrono::steady_clock::time_point submitted = std::chrono::steady_clock::now();

 private:
  bool ends_turn(TokenId token) const;
  Event accept(TokenId token, int64_t context, RequestStats& stats);

  int64_t id_;
  Request request_;
  const Tokenizer* tokenizer_;
  Sampler sampler_;
  std::optional<StreamDecoder> decoder_;
  std::vector<TokenId> tokens_;
  int64_t answered_ = 0;
  std::string held_;  // text that may be the beginning of a stop text
};

}  // namespace tq
