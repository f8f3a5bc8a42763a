// How a model wants a conversation to be written: its chat template, applied and turned into token ids.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "artifact/model.h"
#include "token/chat_template.h"
#include "token/tokenizer.h"

namespace tq {

// A text with the places where no control token may be read across.
struct ChatPrompt {
  std::string text;
  std::vector<size_t> breaks;  // byte offsets, ascending
};

class ChatFormat {
 public:
  // model.chat_template counts unless `source` replaces it; `variables` are an object that the template sees too. The tokenizer must not
  // be null. Errors: kBadInput for a template that cannot be parsed, kUsage for variables that are no object.
  static Result<ChatFormat> create(const Model& model, const std::string& source = {}, Json variables = Json::object());

  // The conversation, ready for the assistant's answer. messages: [{"role": …, "content": text, …}, …]. What the contents spell is never a
  // control token. A template that knows no system message, or wants contents as lists of parts, gets what it wants.
  // Errors: kBadInput, those of the template.
  Result<ChatPrompt> prompt(const Json& messages, const Json& tools = nullptr) const;
  // The ids of a prompt: bos in front where the tokenizer asks for it and the template did not write it.
  std::vector<TokenId> encode(const ChatPrompt& prompt) const;
  // The ids of what a prompt has from byte `from` on, without bos; nothing unless a control token begins there.
  std::optional<std::vector<TokenId>> encode_from(const ChatPrompt& prompt, size_t from) const;

  // What the template itself writes after an answer, where that is a control token.
  const std::optional<TokenId>& end_of_answer() const { return end_of_answer_; }

 private:
  ChatFormat(ChatTemplate chat_template, Tokenizer tokenizer, Json variables)
      : template_(std::move(chat_template)), tokenizer_(std::move(tokenizer)), variables_(std::move(variables)) {}
  Result<std::string> render(const Json& messages, const Json& tools, bool add_generation_prompt) const;
  // Characters that occur in nothing that the template says or is given; empty when no content spells a control token.
  std::string choose_mark(const Json& messages, const Json& tools) const;
  std::optional<TokenId> find_end_of_answer() const;

  ChatTemplate template_;
  Tokenizer tokenizer_;
  Json variables_;
  std::optional<TokenId> end_of_answer_;
};

// A text to go on with: control tokens in it are read, and bos stands in front once if the tokenizer asks for it.
std::vector<TokenId> encode_for_continuation(const Tokenizer& tokenizer, const std::string& text);

// Every id that ends an answer of the model: what its vocabulary, its configuration and its chat format (if any) say.
Result<std::vector<TokenId>> end_of_turn_tokens(const Model& model, const ChatFormat* format);

}  // namespace tq
