// One answer of a model on the terminal: its text as it comes, then its figures.
#pragma once

#include "run/engine.h"

namespace tq::cli {

struct AnswerOptions {
  Request request;  // all but the prompt
  bool json = false;
};

struct Answer {
  std::string text;
  std::vector<TokenId> tokens;  // without the one that ended it; empty when they spell more than the text
  Finish finish = Finish::kCancelled;
};

// Runs one request to its end. Ctrl-C stops the answer. The text goes to standard output, figures (--json aside) to standard error.
class Answerer {
 public:
  Answerer(const Network& network, const Tokenizer& tokenizer, Engine& engine, AnswerOptions options)
      : network_(network), tokenizer_(tokenizer), engine_(engine), options_(std::move(options)) {}

  // Errors: those of Engine::submit; kBadInput when the model's logits are no numbers.
  Result<Answer> answer(std::vector<TokenId> prompt);

 private:
  void report(const RequestStats& stats, const Answer& answer) const;
  const Network& network_;
  const Tokenizer& tokenizer_;
  Engine& engine_;
  AnswerOptions options_;
  uint64_t answers_ = 0;
};

}  // namespace tq::cli
