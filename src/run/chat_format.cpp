#include "run/chat_format.h"

#include <algorithm>
#include <ctime>

#include "base/json_text.h"
#include "run/generation_config.h"

namespace tq {
namespace {

constexpr std::string_view kBlank = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

// Seconds since 1970 as the wall clock shows them.
double local_now() {
  const std::time_t now = std::time(nullptr);
  std::tm local = {};
  localtime_r(&now, &local);
  return static_cast<double>(now) + static_cast<double>(local.tm_gmtoff);
}

std::string content_of(const Json& message) {
  const auto content = message.find("content");
  return content != message.end() && content->is_string() ? content->get<std::string>() : std::string();
}

// "system" before the first message of the user.
Json without_system(const Json& messages) {
  Json out = Json::array();
  std::string system;
  for (const Json& message : messages) {
    if (message.value("role", "") == "system") {
      system += content_of(message) + "\n\n";
      continue;
    }
    out.push_back(message);
    if (message.value("role", "") == "user") out.back()["content"] = std::exchange(system, {}) + content_of(message);
  }
  return out;
}

Json with_parts(const Json& messages) {
  Json out = messages;
  for (Json& message : out)
    if (message.contains("content") && message["content"].is_string())
      message["content"] = Json::array({{{"type", "text"}, {"text", message["content"]}}});
  return out;
}

// Whether the system messages and the user's last one are in the text. Templates may trim them and drop earlier ones.
bool is_complete(const std::string& text, const Json& messages) {
  const Json* last = nullptr;
  for (const Json& message : messages) {
    const std::string role = message.value("role", "");
    if (role == "user") last = &message;
    if (role == "system" && text.find(trimmed(content_of(message))) == std::string::npos) return false;
  }
  return !last || text.find(trimmed(content_of(*last))) != std::string::npos;
}

// A mark stands behind the first byte of what is spelled: stripping the content does not part them.
Json marked(const Tokenizer& tokenizer, const Json& messages, const std::string& mark) {
  Json out = messages;
  for (Json& message : out) {
    const std::string content = content_of(message);
    const std::vector<size_t> begins = tokenizer.find_special(content);
    if (begins.empty()) continue;
    std::string text;
    size_t at = 0;
    for (const size_t begin : begins) {
      text.append(content, at, begin + 1 - at).append(mark);
      at = begin + 1;
    }
    message["content"] = text.append(content, at);
  }
  return out;
}

// U+FDD0 to U+FDEF are never characters, so they are free for such uses. This many of them begin alike in UTF-8.
constexpr uint64_t kNoncharacters = 32;
constexpr std::string_view kNoncharacterStart = "\xef\xb7";
constexpr uint8_t kFirstNoncharacter = 0x90;  // its last byte

// The numbers of the texts of `length` noncharacters that occur in a text, ascending; of each the digits are the characters.
std::vector<uint64_t> runs_of_noncharacters(std::string_view text, int length, uint64_t count) {
  std::vector<uint64_t> out;
  uint64_t number = 0;
  int run = 0;
  for (size_t at = text.find(kNoncharacterStart), next = 0; at != std::string_view::npos; at = text.find(kNoncharacterStart, next)) {
    if (at != next) run = 0;
    next = at + kNoncharacterStart.size();
    const uint64_t digit = next < text.size() ? uint64_t{static_cast<uint8_t>(text[next])} - kFirstNoncharacter : kNoncharacters;
    if (digit >= kNoncharacters) {
      run = 0;
      continue;
    }
    ++next;
    number = (number * kNoncharacters + digit) % count;
    if (++run >= length) out.push_back(number);
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

// The shortest text of noncharacters that does not occur. There always is one: a text of n bytes holds fewer than n of each length.
std::string absent_mark(std::string_view text) {
  uint64_t count = kNoncharacters;
  for (int length = 1;; ++length, count *= kNoncharacters) {
    const std::vector<uint64_t> taken = runs_of_noncharacters(text, length, count);
    if (taken.size() == count) continue;
    uint64_t number = 0;
    while (number < taken.size() && taken[number] == number) ++number;
    std::string out;
    for (uint64_t unit = count / kNoncharacters; unit > 0; unit /= kNoncharacters)
      (out += kNoncharacterStart) += static_cast<char>(kFirstNoncharacter + number / unit % kNoncharacters);
    return out;
  }
}

ChatPrompt without_marks(const std::string& text, const std::string& mark) {
  if (mark.empty()) return {text, {}};
  ChatPrompt out;
  size_t at = 0;
  for (size_t next = text.find(mark); next != std::string::npos; next = text.find(mark, at)) {
    out.text.append(text, at, next - at);
    out.breaks.push_back(out.text.size());
    at = next + mark.size();
  }
  out.text.append(text, at);
  return out;
}

}  // namespace

Result<ChatFormat> ChatFormat::create(const Model& model, const std::string& source, Json variables) {
  TQ_CHECK(model.tokenizer != nullptr);
  if (!variables.is_object()) return bad_usage("the variables of the chat template should be a JSON object");
  TQ_ASSIGN(ChatTemplate parsed, ChatTemplate::parse(source.empty() ? model.chat_template : source));
  ChatFormat out(std::move(parsed), *model.tokenizer, std::move(variables));
  out.end_of_answer_ = out.find_end_of_answer();
  return out;
}

Result<std::string> ChatFormat::render(const Json& messages, const Json& tools, bool add_generation_prompt) const {
  ChatRequest request;
  request.messages = messages;
  request.tools = tools;
  request.add_generation_prompt = add_generation_prompt;
  request.extra = variables_;
  request.bos_token = tokenizer_.token_text(tokenizer_.bos());
  request.eos_token = tokenizer_.token_text(tokenizer_.eos());
  request.now = local_now();
  return template_.render(request);
}

std::string ChatFormat::choose_mark(const Json& messages, const Json& tools) const {
  const bool spells_control_tokens = std::any_of(
      messages.begin(), messages.end(), [&](const Json& message) { return !tokenizer_.find_special(content_of(message)).empty(); });
  if (!spells_control_tokens) return {};
  return absent_mark(template_.source() + json_text(messages) + json_text(tools) + json_text(variables_));
}

Result<ChatPrompt> ChatFormat::prompt(const Json& messages, const Json& tools) const {
  const std::string mark = choose_mark(messages, tools);
  const Json plain = mark.empty() ? messages : marked(tokenizer_, messages, mark);
  const Json merged = without_system(plain);
  const bool has_system = merged.size() != plain.size();
  // A template that knows no types of parts would print the list as it is.
  const bool knows_parts = template_.source().find("type") != std::string::npos;
  const Json forms[] = {plain, knows_parts ? with_parts(plain) : Json(), has_system ? merged : Json(),
                        has_system && knows_parts ? with_parts(merged) : Json()};
  std::optional<Result<std::string>> first;
  for (const Json& form : forms) {
    if (form.is_null()) continue;
    Result<std::string> text = render(form, tools, true);
    if (text && is_complete(*text, plain)) return without_marks(*text, mark);
    if (!first || (!*first && text)) first = std::move(text);
  }
  if (!*first) return Unexpected(first->error());
  return without_marks(**first, mark);  // it says something else than what it was given; so be it
}

std::vector<TokenId> ChatFormat::encode(const ChatPrompt& prompt) const {
  std::vector<TokenId> ids = tokenizer_.encode_broken(prompt.text, prompt.breaks);
  if (tokenizer_.adds_bos() && (ids.empty() || ids[0] != tokenizer_.bos())) ids.insert(ids.begin(), tokenizer_.bos());
  return ids;
}

std::optional<std::vector<TokenId>> ChatFormat::encode_from(const ChatPrompt& prompt, size_t from) const {
  const std::string rest = prompt.text.substr(from);
  std::vector<size_t> breaks;
  for (const size_t at : prompt.breaks)
    if (at > from) breaks.push_back(at - from);
  std::vector<TokenId> ids = tokenizer_.encode_broken(rest, breaks);
  if (ids.empty() || !tokenizer_.is_special(ids[0])) return std::nullopt;
  return ids;
}

// An answer in the middle of a conversation shows how answers end.
std::optional<TokenId> ChatFormat::find_end_of_answer() const {
  const std::string answer = "Yes.";
  const auto turn = [](const char* role, const std::string& content) { return Json{{"role", role}, {"content", content}}; };
  const Json messages = Json::array({turn("user", "Do you?"), turn("assistant", answer), turn("user", "Do they?")});
  for (const Json& form : {messages, with_parts(messages)}) {
    const Result<std::string> text = render(form, nullptr, false);
    const size_t found = text ? text->find(answer) : std::string::npos;
    if (found == std::string::npos) continue;
    const std::string_view rest = std::string_view(*text).substr(found + answer.size());
    const size_t begin = rest.find_first_not_of(kBlank);
    if (begin == std::string_view::npos) continue;
    const std::vector<TokenId> ids = tokenizer_.encode(rest.substr(begin), true, false);
    if (!ids.empty() && tokenizer_.is_special(ids[0])) return ids[0];
  }
  return std::nullopt;
}

std::vector<TokenId> encode_for_continuation(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<TokenId> ids = tokenizer.encode(text, true, false);
  if (tokenizer.adds_bos() && (ids.empty() || ids[0] != tokenizer.bos())) ids.insert(ids.begin(), tokenizer.bos());
  return ids;
}

Result<std::vector<TokenId>> end_of_turn_tokens(const Model& model, const ChatFormat* format) {
  std::vector<TokenId> out = model.tokenizer->end_of_turn();
  const auto add = [&](TokenId id) {
    if (std::find(out.begin(), out.end(), id) == out.end()) out.push_back(id);
  };
  TQ_ASSIGN(const GenerationConfig config, read_generation_config(model));
  for (const TokenId id : config.end_of_turn) add(id);
  // <|end|> ends an answer in the history of gpt-oss, but only a message while it answers.
  const bool is_harmony = model.tokenizer->find("<|return|>") && model.tokenizer->find("<|channel|>");
  if (format && format->end_of_answer() && !is_harmony) add(*format->end_of_answer());
  return out;
}

}  // namespace tq
