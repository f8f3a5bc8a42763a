// A conversation on a terminal.
#pragma once

#include <optional>
#include <string>

#include "cli/answer.h"
#include "run/conversation.h"

namespace tq::cli {

// Reads messages of one or several lines from standard input: a line that ends in \ goes on in the next one, and """ begins and ends a
// stretch of lines.
class MessageReader {
 public:
  // Nothing: the end of the input, or Ctrl-C.
  std::optional<std::string> next();

 private:
  std::optional<std::string> line(const char* sign);
  std::string buffered_;
};

// Until the user has had enough. Without a conversation (a model that has no chat template) every message is continued as a text.
// Errors: kInterrupted for a request to terminate; Ctrl-C at the prompt is how a user leaves. Those of answers.
Status talk(Answerer& answerer, const Tokenizer& tokenizer, Conversation* conversation);

}  // namespace tq::cli
