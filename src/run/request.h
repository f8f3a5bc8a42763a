// What goes into an engine and what comes out.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "run/sampler.h"

namespace tq {

struct Request {
  std::vector<TokenId> prompt;
  SamplerOptions sampler;
  int64_t max_tokens = -1;           // of the answer; negative: until the context is full
  std::vector<std::string> stop;     // texts that end the answer; they are not part of it
  std::vector<TokenId> end_of_turn;  // ids that end the answer, beyond the tokenizer's
  bool ignore_end_of_turn = false;
  bool continues_text = false;  // the answer goes on where the prompt ends; else a text begins, whose first space some tokenizers add
};

// kContext: the context is full. kNotFinite: the logits are no numbers, so the model's file or its arithmetic is broken.
enum class Finish : uint8_t { kEndOfTurn, kStopText, kLength, kContext, kCancelled, kNotFinite };

struct Event {
  int64_t id = 0;
  std::string text;              // new text; whole characters
  std::vector<TokenId> tokens;   // new tokens, the one that ends the turn included
  std::optional<Finish> finish;  // the request's last event
};

// Seconds of the prompt and of the answer are those of the steps that the request took part in, whoever else did.
struct RequestStats {
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;  // of the prompt, whose keys and values were there already
  int64_t answer_tokens = 0;
  int64_t preemptions = 0;  // how often its pages were taken away and computed again
  double prompt_seconds = 0, decode_seconds = 0;
  double first_token_seconds = 0;  // from its submission to its first token
  uint64_t logits_hash = 0;        // of all logits that tokens were chosen from; on a device of those that came from it
};

}  // namespace tq
