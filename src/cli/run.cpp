#include <unistd.h>

#include <iostream>

#include "base/hash.h"
#include "base/mapped_file.h"
#include "cli/command.h"
#include "convert/import.h"
#include "run/engine.h"

namespace tq::cli {
namespace {

struct Flags {
  std::string model, prompt, file, kv = "f16";
  std::vector<std::string> stop;
  int64_t context = 0, max_tokens = -1;
  SamplerOptions sampler;
  bool raw = false, json = false, float_activations = false, ignore_end = false;
  ComputeFlags compute;
};

Result<std::string> read_standard_input() {
  std::string text((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return text;
}

// The prompt of the command line, a file or standard input; empty on a terminal: a conversation.
Result<std::string> find_prompt(const Flags& flags) {
  if (!flags.file.empty() && !flags.prompt.empty()) return bad_usage("give a prompt or -f FILE, not both");
  if (flags.file == "-") return read_standard_input();
  if (!flags.file.empty()) return read_text_file(flags.file);
  if (!flags.prompt.empty() || isatty(STDIN_FILENO)) return flags.prompt;
  return read_standard_input();
}

// Continues texts; chat templates are not interpreted yet.
class Continuation {
 public:
  Continuation(const Model& model, const Flags& flags, Network& network, Engine& engine)
      : model_(model), flags_(flags), network_(network), engine_(engine) {}

  Status answer(const std::string& text) {
    Request request;
    request.prompt = model_.tokenizer->encode(text, false, true);
    request.sampler = flags_.sampler;
    request.max_tokens = flags_.max_tokens;
    request.stop = flags_.stop;
    request.ignore_end_of_turn = flags_.ignore_end;
    TQ_ASSIGN(const int64_t id, engine_.submit(std::move(request)));
    std::string said;
    bool cancelled = false;
    while (!engine_.idle()) {
      if (interrupted() && !cancelled) engine_.cancel(id), cancelled = true;
      for (const Event& event : engine_.step()) {
        said += event.text;
        if (!flags_.json) fmt::print("{}", event.text), std::fflush(stdout);
      }
    }
    report(engine_.stats(id), said);
    if (cancelled) return fail(ErrorCode::kInterrupted, "stopped");
    return {};
  }

 private:
  void report(const RequestStats& stats, const std::string& said) const {
    const auto rate = [](int64_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0; };
    // The first token of the answer comes with the prompt.
    const double prompt = rate(stats.prompt_tokens - stats.reused_tokens, stats.prompt_seconds);
    const double decode = rate(std::max<int64_t>(0, stats.answer_tokens - 1), stats.decode_seconds);
    const double gigabytes = decode * static_cast<double>(network_.bytes_per_token()) / 1e9;
    if (flags_.json) {
      fmt::print("{}\n", Json{{"text", said},
                              {"prompt_tokens", stats.prompt_tokens},
                              {"answer_tokens", stats.answer_tokens},
                              {"prompt_tokens_per_second", prompt},
                              {"decode_tokens_per_second", decode},
                              {"decode_gigabytes_per_second", gigabytes},
                              {"logits_hash", hex64(stats.logits_hash)}}
                             .dump(2));
      return;
    }
    fmt::print("\n");
    fmt::print(stderr, "prompt {} tokens, {:.1f} tok/s; answer {} tokens, {:.1f} tok/s, {:.1f} GB/s; logits {}\n", stats.prompt_tokens,
               prompt, stats.answer_tokens, decode, gigabytes, hex64(stats.logits_hash));
  }

  const Model& model_;
  const Flags& flags_;
  Network& network_;
  Engine& engine_;
};

Status converse(Continuation& chat) {
  fmt::print(stderr, "An empty line or Ctrl-D ends the conversation.\n");
  std::string line;
  while (true) {
    fmt::print("> ");
    std::fflush(stdout);
    if (!std::getline(std::cin, line) || line.empty()) return {};
    TQ_TRY(chat.answer(line));
  }
}

Status act(const Flags& flags) {
  TQ_ASSIGN(const std::string prompt, find_prompt(flags));
  TQ_ASSIGN(const Model model, load_model(flags.model));
  if (!model.tokenizer) return bad_input("{}: it has no tokenizer", flags.model);
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  TQ_ASSIGN(Network network, Network::create(model, session->backend()));
  const KvType kv = flags.kv == "q8" ? KvType::kQ8 : flags.kv == "f32" ? KvType::kF32 : KvType::kF16;
  if (flags.context > model.spec.context) return bad_usage("--ctx {}: the model was made for {} tokens", flags.context, model.spec.context);
  TQ_ASSIGN(Engine engine,
            Engine::create(
                network, *model.tokenizer,
                {.context = flags.context, .kv_type = kv, .precision = flags.float_activations ? Precision::kFloat : Precision::kInt8}));
  Continuation chat(model, flags, network, engine);
  return prompt.empty() ? converse(chat) : chat.answer(prompt);
}

}  // namespace

Command add_run(CLI::App& root) {
  CLI::App* app = root.add_subcommand("run", "Answer a prompt, or talk");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->model, "Artifact, Hugging Face directory or GGUF file")->required();
  app->add_option("prompt", flags->prompt, "The prompt; without one, standard input, or a conversation on a terminal");
  app->add_option("-f,--file", flags->file, "Read the prompt from a file; - is standard input");
  app->add_flag("--raw", flags->raw, "Continue the text without a chat template (the only way so far)");
  app->add_option("--ctx", flags->context, "Context in tokens; 0 is the model's own, at most 4096")->check(CLI::NonNegativeNumber);
  app->add_option("-n,--max-tokens", flags->max_tokens, "Tokens of the answer at most; negative: no limit");
  app->add_option("--temperature", flags->sampler.temperature, "0: always the most likely token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--top-k", flags->sampler.top_k, "Only the K most likely tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--top-p", flags->sampler.top_p, "Only the most likely tokens that reach this probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app->add_option("--min-p", flags->sampler.min_p, "Only tokens of this probability relative to the first")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app->add_option("--repetition-penalty", flags->sampler.repetition_penalty, "Above 1: tokens seen before become less likely")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--seed", flags->sampler.seed, "Of the random choice");
  app->add_option("--stop", flags->stop, "Text that ends the answer; may be given several times");
  app->add_flag("--ignore-end", flags->ignore_end, "Go on after an end-of-turn token");
  app->add_option("--kv", flags->kv, "Keys and values: f16, q8 or f32")->check(CLI::IsMember({"f16", "q8", "f32"}))->capture_default_str();
  app->add_flag("--float-activations", flags->float_activations, "Slow and exact products with quantized matrices");
  app->add_flag("--json", flags->json, "Print the answer and the figures as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
