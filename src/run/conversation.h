// A conversation in turns, written so that as much of the last prompt as possible can be reused.
#pragma once

#include "run/chat_format.h"

namespace tq {

class Conversation {
 public:
  // The format must outlive it. system: empty for none.
  Conversation(const ChatFormat& format, std::string system);

  // The prompt of a question. It stays pending until answered() or the next question.
  // Errors: those of the template; the conversation is then as before.
  Result<std::vector<TokenId>> ask(const std::string& question);
  // The last question again, without its answer. Errors: kUsage when there is none.
  Result<std::vector<TokenId>> ask_again();
  // tokens: exactly those of the text, without the one that ended it; empty when that is not known. An empty text drops the question.
  void answered(const std::string& text, std::vector<TokenId> tokens);
  void clear();
  const Json& messages() const { return messages_; }

 private:
  Result<std::vector<TokenId>> prompt_for(const Json& messages);

  const ChatFormat* format_;
  Json messages_, pending_;
  std::string system_;
  // What the last prompt and its answer were; the next prompt usually begins like them.
  std::string asked_text_, said_text_;
  std::vector<TokenId> asked_tokens_, said_tokens_;
};

}  // namespace tq
