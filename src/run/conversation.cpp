#include "run/conversation.h"

namespace tq {
namespace {

Json message(const char* role, const std::string& content) { return {{"role", role}, {"content", content}}; }

}  // namespace

Conversation::Conversation(const ChatFormat& format, std::string system) : format_(&format), system_(std::move(system)) { clear(); }

void Conversation::clear() {
  messages_ = Json::array();
  if (!system_.empty()) messages_.push_back(message("system", system_));
  pending_ = nullptr;
  said_text_.clear(), said_tokens_.clear();
}

Result<std::vector<TokenId>> Conversation::prompt_for(const Json& messages) {
  TQ_ASSIGN(ChatPrompt prompt, format_->prompt(messages));
  const std::string before = asked_text_ + said_text_;
  std::optional<std::vector<TokenId>> rest;
  // The answer's own tokens stay, even where its text would be cut into others: their keys and values are there already.
  if (!said_tokens_.empty() && prompt.text.starts_with(before)) rest = format_->encode_from(prompt, before.size());
  std::vector<TokenId> tokens;
  if (rest) {
    tokens = asked_tokens_;
    tokens.insert(tokens.end(), said_tokens_.begin(), said_tokens_.end());
    tokens.insert(tokens.end(), rest->begin(), rest->end());
  } else {
    tokens = format_->encode(prompt);
  }
  said_text_.clear(), said_tokens_.clear();
  asked_text_ = std::move(prompt.text);
  asked_tokens_ = tokens;
  pending_ = messages;
  return tokens;
}

Result<std::vector<TokenId>> Conversation::ask(const std::string& question) {
  Json messages = messages_;
  messages.push_back(message("user", question));
  return prompt_for(messages);
}

Result<std::vector<TokenId>> Conversation::ask_again() {
  Json messages = messages_;
  if (messages.empty() || messages.back().value("role", "") != "assistant") return bad_usage("there is no answer to replace yet");
  messages.erase(messages.size() - 1);
  return prompt_for(messages);
}

void Conversation::answered(const std::string& text, std::vector<TokenId> tokens) {
  if (pending_.is_null()) return;
  if (!text.empty()) {
    messages_ = std::exchange(pending_, nullptr);
    messages_.push_back(message("assistant", text));
  }
  pending_ = nullptr;
  said_text_ = text;
  said_tokens_ = text.empty() ? std::vector<TokenId>() : std::move(tokens);
}

}  // namespace tq
