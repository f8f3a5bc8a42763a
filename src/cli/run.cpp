#include <unistd.h>

#include <iostream>
#include <random>

#include <CLI/CLI.hpp>

#include "base/mapped_file.h"
#include "cli/command.h"
#include "cli/number_checks.h"
#include "cli/talk.h"
#include "convert/import.h"
#include "run/generation_config.h"

namespace tq::cli {
namespace {

// Of the choice of tokens; what is not given is the model's own, or the program's.
struct SamplerFlags {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
};

struct Flags {
  std::string model, file, system, template_file, variables, kv = "f16";
  std::optional<std::string> prompt;
  std::vector<std::string> stop;
  int64_t context = 0, max_tokens = -1;
  SamplerFlags sampler;
  bool raw = false, json = false, float_activations = false, invariant = false, ignore_end = false;
  ComputeFlags compute;
};

// A last line end belongs to the file, not to the prompt.
std::string without_last_line_end(std::string text) {
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

std::string read_standard_input() {
  return without_last_line_end({std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()});
}

// The prompt of the command line, a file or standard input; nothing on a terminal: a conversation.
Result<std::optional<std::string>> find_prompt(const Flags& flags) {
  if (flags.prompt) return flags.prompt;
  if (flags.file.empty() && isatty(STDIN_FILENO)) return std::nullopt;
  if (flags.file.empty() || flags.file == "-") return read_standard_input();
  TQ_ASSIGN(std::string text, read_text_file(flags.file));
  return without_last_line_end(std::move(text));
}

SamplerOptions sampler_options(const SamplerFlags& flags, SamplerOptions out) {
  out.temperature = flags.temperature.value_or(out.temperature);
  out.top_k = flags.top_k.value_or(out.top_k);
  out.top_p = flags.top_p.value_or(out.top_p);
  out.min_p = flags.min_p.value_or(out.min_p);
  out.repetition_penalty = flags.repetition_penalty.value_or(out.repetition_penalty);
  out.seed = flags.seed ? *flags.seed : std::random_device{}();
  return out;
}

const std::string& place_of_template(const Flags& flags) { return flags.template_file.empty() ? flags.model : flags.template_file; }

// The format of chats, unless the text is to be continued. Errors end with what can be done instead.
Result<std::optional<ChatFormat>> find_format(const Flags& flags, const Model& model) {
  if (flags.raw && !flags.system.empty()) return bad_usage("--raw continues the text; a --system message needs the chat template");
  if (flags.raw) return std::nullopt;
  std::string source;
  if (!flags.template_file.empty()) {
    TQ_ASSIGN(source, read_text_file(flags.template_file));
  }
  if (source.empty() && model.chat_template.empty()) {
    if (!flags.system.empty()) return bad_usage("--system: {} has no chat template; give one with --chat-template", flags.model);
    return std::nullopt;
  }
  Json variables = Json::object();
  if (!flags.variables.empty()) {
    auto parsed = parse_json(flags.variables, "--chat-template-kwargs");
    if (!parsed || !parsed->is_object())
      return bad_usage("--chat-template-kwargs: a JSON object was expected, as {{\"enable_thinking\": false}}");
    variables = *parsed;
  }
  auto format = ChatFormat::create(model, source, variables);
  if (!format) return bad_input("{}: {}; --raw continues the text without it", place_of_template(flags), format.error().message);
  return std::move(*format);
}

Status answer_once(const Flags& flags, Answerer& answerer, const Tokenizer& tokenizer, const ChatFormat* format, const std::string& text) {
  Result<std::vector<TokenId>> prompt = encode_for_continuation(tokenizer, text);
  if (format) prompt = Conversation(*format, flags.system).ask(text);
  if (!prompt)
    return fail(prompt.error().code, "{}: {}; --raw continues the text without the template", place_of_template(flags),
                prompt.error().message);
  TQ_ASSIGN(const Answer answer, answerer.answer(std::move(*prompt)));
  if (answer.finish == Finish::kCancelled) return fail(ErrorCode::kInterrupted, "stopped");
  return {};
}

Status act(const Flags& flags) {
  if (!flags.file.empty() && flags.prompt) return bad_usage("give a prompt or -f FILE, not both");
  TQ_ASSIGN(const Model model, load_model(flags.model));  // first: what is wrong with it is said before a prompt is waited for
  const auto found = find_prompt(flags);
  if (interrupted()) return fail(ErrorCode::kInterrupted, "stopped");  // a part of the prompt is none
  TQ_ASSIGN(const std::optional<std::string> prompt, found);
  if (!prompt && flags.json) return bad_usage("--json needs a prompt");
  if (prompt && prompt->empty()) return bad_usage("the prompt is empty");
  if (!model.tokenizer) return bad_input("{}: it has no tokenizer", flags.model);
  if (flags.context > model.spec.context) return bad_usage("--ctx {}: the model was made for {} tokens", flags.context, model.spec.context);
  TQ_ASSIGN(const std::optional<ChatFormat> format, find_format(flags, model));
  const ChatFormat* chat = format ? &*format : nullptr;
  TQ_ASSIGN(const GenerationConfig config, read_generation_config(model));
  AnswerOptions options{.request = {}, .json = flags.json};
  options.request.sampler = sampler_options(flags.sampler, config.sampler);
  options.request.max_tokens = flags.max_tokens;
  options.request.stop = flags.stop;
  options.request.ignore_end_of_turn = flags.ignore_end;
  options.request.continues_text = chat == nullptr;
  TQ_ASSIGN(options.request.end_of_turn, end_of_turn_tokens(model, chat));

  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  TQ_ASSIGN(Network network, Network::create(model, session->backend()));
  const KvType kv = flags.kv == "q8" ? KvType::kQ8 : flags.kv == "f32" ? KvType::kF32 : KvType::kF16;
  const Precision precision = flags.float_activations ? Precision::kFloat : flags.invariant ? Precision::kInvariant : Precision::kInt8;
  TQ_ASSIGN(Engine engine, Engine::create(network, model.tokenizer.get(),
                                          {.context = flags.context, .kv_type = kv, .max_sequences = 1, .precision = precision}));
  Answerer answerer(network, *model.tokenizer, engine, std::move(options));
  if (!chat && !flags.raw) fmt::print(stderr, "{} has no chat template: the text is continued, not answered.\n", flags.model);
  if (prompt) return answer_once(flags, answerer, *model.tokenizer, chat, *prompt);
  fmt::print(stderr, "{}; /help lists the commands, Ctrl-D ends.\n", describe(model));
  std::optional<Conversation> conversation;
  if (chat) conversation.emplace(*chat, flags.system);
  return talk(answerer, *model.tokenizer, conversation ? &*conversation : nullptr);
}

void add_sampler_flags(CLI::App& app, SamplerFlags& flags) {
  app.add_option("--temperature", flags.temperature, "0: always the most likely token; else the model's own, or 0.8")
      ->check(number_in(0, 1000));
  app.add_option("--top-k", flags.top_k, "Only the K most likely tokens, 0: all; else the model's own, or 40")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  app.add_option("--top-p", flags.top_p, "Only the most likely tokens that reach this probability; else the model's own, or 0.95")
      ->check(number_in(0, 1));
  app.add_option("--min-p", flags.min_p, "Only tokens of this probability relative to the first; else the model's own, or 0.05")
      ->check(number_in(0, 1));
  app.add_option("--repetition-penalty", flags.repetition_penalty,
                 "Above 1: tokens seen before become less likely; else the model's own, or 1")
      ->check(number_in(0.01, 100));
  app.add_option("--seed", flags.seed, "Of the random choice; else another one every time")->check(seed_number());
}

}  // namespace

Command add_run(CLI::App& root) {
  CLI::App* app = root.add_subcommand("run", "Answer a prompt, or talk");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->model, "Artifact, Hugging Face directory or GGUF file")->required();
  app->add_option("prompt", flags->prompt, "The prompt; without one, standard input, or a conversation on a terminal");
  app->add_option("-f,--file", flags->file, "Read the prompt from a file; - is standard input");
  app->add_option("--system", flags->system, "The system message of the conversation");
  CLI::Option* raw = app->add_flag("--raw", flags->raw, "Continue the text, without the model's chat template");
  app->add_option("--chat-template", flags->template_file, "A file with a chat template to use instead of the model's")->excludes(raw);
  app->add_option("--chat-template-kwargs", flags->variables, "Variables of the chat template, as {\"enable_thinking\": false}")
      ->excludes(raw);
  app->add_option("--ctx", flags->context, "Context in tokens; 0 is the model's own. Memory is taken as it fills")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  app->add_option("-n,--max-tokens", flags->max_tokens, "Tokens of the answer at most; negative: no limit");
  add_sampler_flags(*app, flags->sampler);
  app->add_option("--stop", flags->stop, "Text that ends the answer; may be given several times")->allow_extra_args(false);
  app->add_flag("--ignore-end", flags->ignore_end, "Go on after an end-of-turn token");
  app->add_option("--kv", flags->kv, "Keys and values: f16, q8 or f32")->check(CLI::IsMember({"f16", "q8", "f32"}))->capture_default_str();
  CLI::Option* is_float = app->add_flag("--float-activations", flags->float_activations, "Slow and exact products with quantized matrices");
  app->add_flag("--batch-invariant", flags->invariant, "Answer as a batch-invariant engine does, whatever is in its batch; slower prompts")
      ->excludes(is_float);
  app->add_flag("--json", flags->json, "Print the answer and the figures as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
