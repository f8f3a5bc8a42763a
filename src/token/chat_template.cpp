#include "token/chat_template.h"

#include <utility>

#include "token/jinja/interpreter.h"
#include "token/jinja/print.h"
#include "token/utf8.h"

namespace tq {

struct ChatTemplate::Parsed {
  std::string source;
  jinja::Body body;
};

namespace {

constexpr size_t kMaxSource = size_t{4} << 20;
constexpr size_t kMaxMessage = 400;  // bytes of a template's own message

// One line, whatever the template put into it.
Unexpected report(const jinja::Problem& problem, int line) {
  std::string text;
  for (const char c : problem.message.substr(0, kMaxMessage)) text += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  text = utf8_repair(text);
  const int at = problem.line ? problem.line : line;
  return at ? bad_input("chat template, line {}: {}", at, text) : bad_input("chat template: {}", text);
}

std::vector<std::pair<std::string, jinja::Value>> variables(jinja::Runtime& runtime, const ChatRequest& request) {
  std::vector<std::pair<std::string, jinja::Value>> out;
  out.emplace_back("messages", jinja::from_json(runtime, request.messages));
  out.emplace_back("tools", jinja::from_json(runtime, request.tools));
  out.emplace_back("documents", jinja::None{});
  out.emplace_back("add_generation_prompt", request.add_generation_prompt);
  out.emplace_back("bos_token", runtime.make_text(request.bos_token));
  out.emplace_back("eos_token", runtime.make_text(request.eos_token));
  if (request.extra.is_object())
    for (const auto& [name, value] : request.extra.items()) out.emplace_back(name, jinja::from_json(runtime, value));
  return out;
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string source) {
  if (source.size() > kMaxSource) return bad_input("chat template: {} bytes, more than {} MiB", source.size(), kMaxSource >> 20);
  for (size_t at = 0; at < source.size(); at += utf8_length(source, at))
    if (utf8_length(source, at) == 0) return bad_input("chat template: not UTF-8 at byte {}", at);
  try {
    auto parsed = std::make_shared<Parsed>();
    parsed->body = jinja::parse(source);
    parsed->source = std::move(source);
    return ChatTemplate(std::move(parsed));
  } catch (const jinja::Problem& problem) {
    return report(problem, 0);
  }
}

Result<std::string> ChatTemplate::render(const ChatRequest& request, const ChatTemplateLimits& limits) const {
  jinja::Runtime runtime({.steps = limits.steps, .bytes = limits.bytes}, request.now);
  try {
    return jinja::render(parsed_->body, runtime, variables(runtime, request));
  } catch (const jinja::Problem& problem) {
    return report(problem, runtime.line());
  }
}

const std::string& ChatTemplate::source() const { return parsed_->source; }

}  // namespace tq
