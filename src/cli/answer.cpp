#include "cli/answer.h"

#include "base/counted.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "cli/build_id.h"
#include "cli/command.h"

namespace tq::cli {
namespace {

const char* name_of(Finish finish) {
  switch (finish) {
    case Finish::kEndOfTurn: return "end of turn";
    case Finish::kStopText: return "stop text";
    case Finish::kLength: return "length";
    case Finish::kContext: return "context full";
    case Finish::kCancelled: return "interrupted";
    case Finish::kNotFinite: return "not finite";
  }
  __builtin_unreachable();
}

}  // namespace

Result<Answer> Answerer::answer(std::vector<TokenId> prompt) {
  Request request = options_.request;
  request.prompt = std::move(prompt);
  request.sampler.seed += answers_++;  // another choice for every answer of a conversation
  TQ_ASSIGN(const int64_t id, engine_.submit(std::move(request)));
  Answer out;
  bool is_cancelled = false;
  while (!engine_.idle()) {
    if (interrupted() && !is_cancelled) engine_.cancel(id), is_cancelled = true;
    for (const Event& event : engine_.step()) {
      out.text += event.text;
      out.tokens.insert(out.tokens.end(), event.tokens.begin(), event.tokens.end());
      if (event.finish) out.finish = *event.finish;
      if (!options_.json) fmt::print("{}", event.text), std::fflush(stdout);
    }
  }
  if (out.finish == Finish::kEndOfTurn) out.tokens.pop_back();
  StreamDecoder whole(tokenizer_, true, options_.request.continues_text);
  std::string text;
  for (const TokenId token : out.tokens) text += whole.push(token);
  if (text + whole.finish() != out.text) out.tokens.clear();
  if (out.finish == Finish::kNotFinite)
    return bad_input("{}: what it computes is no number; its weights are damaged or overflow: fetch or quantize it again",
                     network_.model().source);
  report(engine_.stats(id), out);
  return out;
}

void Answerer::report(const RequestStats& stats, const Answer& answer) const {
  const auto rate = [](int64_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0; };
  // The first token of the answer comes with the prompt.
  const double prompt = rate(stats.prompt_tokens - stats.reused_tokens, stats.prompt_seconds);
  // Of an interrupted prompt it is not known here how much was computed.
  const bool is_prompt_done = answer.finish != Finish::kCancelled || stats.answer_tokens > 0;
  const double decode = rate(std::max<int64_t>(0, stats.answer_tokens - 1), stats.decode_seconds);
  const double gigabytes = decode * static_cast<double>(network_.bytes_per_token()) / 1e9;
  const uint64_t seed = options_.request.sampler.seed + answers_ - 1;
  if (options_.json) {
    const Json json = {{"text", answer.text},
                       {"finish", name_of(answer.finish)},
                       {"prompt_tokens", stats.prompt_tokens},
                       {"reused_tokens", stats.reused_tokens},
                       {"answer_tokens", stats.answer_tokens},
                       {"context", engine_.context()},
                       {"prompt_tokens_per_second", is_prompt_done ? Json(prompt) : Json()},
                       {"decode_tokens_per_second", decode},
                       {"decode_gigabytes_per_second", gigabytes},
                       {"logits_hash", hex64(stats.logits_hash)},
                       {"seed", seed},
                       {"build", build_id()}};
    fmt::print("{}\n", json_text(json, 2));
    return;
  }
  fmt::print("\n");
  std::fflush(stdout);
  if (answer.finish == Finish::kContext) {
    const int64_t largest = network_.model().spec.context;
    fmt::print(stderr, "The context of {} tokens is full{}.\n", engine_.context(),
               engine_.context() < largest ? fmt::format("; --ctx takes up to {}", largest) : "");
  }
  if (!is_prompt_done) {
    fmt::print(stderr, "prompt {}, interrupted after {:.1f} s; seed {}; build {}\n", counted(stats.prompt_tokens, "token"),
               stats.prompt_seconds, seed, build_id());
    return;
  }
  fmt::print(stderr, "prompt {}{}, {:.1f} tok/s; answer {}, {:.1f} tok/s, {:.1f} GB/s; logits {}; seed {}; build {}\n",
             counted(stats.prompt_tokens, "token"), stats.reused_tokens > 0 ? fmt::format(" ({} reused)", stats.reused_tokens) : "", prompt,
             counted(stats.answer_tokens, "token"), decode, gigabytes, hex64(stats.logits_hash), seed, build_id());
}

}  // namespace tq::cli
