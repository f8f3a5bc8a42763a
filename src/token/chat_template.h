// Chat templates: a Jinja template that turns a conversation into a prompt, rendered as Hugging Face's apply_chat_template does.
#pragma once

#include <memory>
#include <string>

#include "base/json.h"
#include "base/result.h"

namespace tq {

struct ChatRequest {
  Json messages = Json::array();  // {"role": …, "content": …, and what else the template reads}
  Json tools = nullptr;           // JSON schemas of functions, or null
  bool add_generation_prompt = true;
  Json extra = Json::object();  // further variables, e.g. enable_thinking; they come before those above
  std::string bos_token;
  std::string eos_token;
  double now = 0;  // for strftime_now: seconds since 1970 in UTC (add the zone's offset for local time)
};

// Bounds of one rendering, so that a hostile template ends in an error.
struct ChatTemplateLimits {
  uint64_t steps = 20'000'000;           // about one per expression evaluated or item visited
  uint64_t bytes = uint64_t{512} << 20;  // of text and values made in all
};

class ChatTemplate {
 public:
  // Errors: kBadInput "chat template, line N: …".
  static Result<ChatTemplate> parse(std::string source);
  // May be called from several threads at once. Errors as above, those that the template raises itself included.
  Result<std::string> render(const ChatRequest& request, const ChatTemplateLimits& limits = {}) const;
  const std::string& source() const;

 private:
  struct Parsed;
  explicit ChatTemplate(std::shared_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}
  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace tq
