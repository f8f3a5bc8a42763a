#include "cli/talk.h"

#include <unistd.h>

#include "cli/command.h"

namespace tq::cli {
namespace {

constexpr std::string_view kQuotes = "\"\"\"";

constexpr const char* kHelp =
    "/clear       begin a new conversation\n"
    "/regen       answer the last question again\n"
    "/exit, /bye  leave; Ctrl-D or Ctrl-C too\n"
    "/help        this list\n"
    "A line that ends in \\ goes on in the next one; \"\"\" begins and ends a message of several lines.\n"
    "Ctrl-C while an answer is being written stops it.\n";

// What a message does.
enum class Meaning : uint8_t { kQuestion, kClear, kAgain, kHelp, kExit, kUnknown };

Meaning meaning_of(const std::string& message) {
  const std::string word = message.substr(0, message.find_last_not_of(" \t\r\n") + 1);
  if (word == "/exit" || word == "/bye" || word == "/quit") return Meaning::kExit;
  if (word == "/clear" || word == "/new") return Meaning::kClear;
  if (word == "/regen" || word == "/retry") return Meaning::kAgain;
  if (word == "/help" || word == "/?") return Meaning::kHelp;
  // A path or an expression may begin with a slash too, but a single lower-case word is meant for us.
  const bool is_word = word.size() > 1 && word[0] == '/' && word.find_first_not_of("abcdefghijklmnopqrstuvwxyz", 1) == std::string::npos;
  return is_word ? Meaning::kUnknown : Meaning::kQuestion;
}

void warn(const Error& error) { fmt::print(stderr, "{}\n", error.message); }

// A question that cannot be asked is reported; the conversation goes on. Errors: those that end the conversation.
Status exchange(Answerer& answerer, Result<std::vector<TokenId>> prompt, Conversation* conversation) {
  if (!prompt) return warn(prompt.error()), Status{};
  Result<Answer> answer = answerer.answer(std::move(*prompt));
  if (!answer && answer.error().code == ErrorCode::kUsage) {
    warn(answer.error());
    if (conversation) fmt::print(stderr, "/clear begins a new conversation.\n");
    return {};
  }
  if (!answer) return Unexpected(answer.error());
  if (conversation) conversation->answered(answer->text, std::move(answer->tokens));
  forget_interrupt();
  return {};
}

}  // namespace

std::optional<std::string> MessageReader::line(const char* sign) {
  fmt::print(stderr, "{}", sign);
  std::fflush(stderr);
  while (!interrupted()) {
    if (const size_t end = buffered_.find('\n'); end != std::string::npos) {
      std::string out = buffered_.substr(0, end);
      buffered_.erase(0, end + 1);
      if (!out.empty() && out.back() == '\r') out.pop_back();
      return out;
    }
    char bytes[4096];
    const ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);
    if (count > 0) {
      buffered_.append(bytes, static_cast<size_t>(count));
      continue;
    }
    if (count < 0 && errno == EINTR && !interrupted()) continue;
    if (buffered_.empty()) break;
    return std::exchange(buffered_, {});
  }
  fmt::print(stderr, "\n");
  return std::nullopt;
}

std::optional<std::string> MessageReader::next() {
  std::optional<std::string> first = line("> ");
  if (!first) return std::nullopt;
  std::string message = *first;
  if (message.starts_with(kQuotes)) {
    message.erase(0, kQuotes.size());
    while (!message.ends_with(kQuotes)) {
      const std::optional<std::string> more = line(". ");
      if (!more) return std::nullopt;
      message += "\n" + *more;
    }
    message.resize(message.size() - kQuotes.size());
    return message.starts_with('\n') ? message.substr(1) : message;
  }
  while (message.ends_with('\\')) {
    message.back() = '\n';
    const std::optional<std::string> more = line(". ");
    if (!more) return std::nullopt;
    message += *more;
  }
  return message;
}

Status talk(Answerer& answerer, const Tokenizer& tokenizer, Conversation* conversation) {
  MessageReader reader;
  while (const std::optional<std::string> message = reader.next()) {
    if (message->find_first_not_of(" \t\r\n") == std::string::npos) continue;
    switch (meaning_of(*message)) {
      case Meaning::kExit: return {};
      case Meaning::kHelp: fmt::print(stderr, "{}", kHelp); break;
      case Meaning::kUnknown: fmt::print(stderr, "{}: there is no such command; /help lists them\n", *message); break;
      case Meaning::kClear:
        if (conversation) conversation->clear();
        fmt::print(stderr, "A new conversation.\n");
        break;
      case Meaning::kAgain:
        if (!conversation) fmt::print(stderr, "Without a chat template there is nothing to answer again.\n");
        else TQ_TRY(exchange(answerer, conversation->ask_again(), conversation));
        break;
      case Meaning::kQuestion:
        TQ_TRY(exchange(answerer, conversation ? conversation->ask(*message) : encode_for_continuation(tokenizer, *message), conversation));
        break;
    }
  }
  if (terminated()) return fail(ErrorCode::kInterrupted, "stopped");
  return {};
}

}  // namespace tq::cli
