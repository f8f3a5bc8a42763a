#include <cmath>

#include "base/mapped_file.h"
#include "base/output_file.h"
#include "cli/command.h"
#include "convert/import.h"
#include "eval/divergence.h"

namespace tq::cli {
namespace {

struct Flags {
  std::string model, against, tasks = "kl,ppl", protocol = "huggingface";
  std::vector<std::string> texts;
  int64_t window = 1024, windows = 40;
  bool json = false, skip_float = false;
  ComputeFlags compute;
};

Json mean_json(const Mean& mean) { return {{"mean", mean.mean}, {"stderr", mean.standard_error}}; }

// The standard error of exp(x), to first order.
Json ppl_json(const Mean& loss) {
  const double ppl = std::exp(loss.mean);
  return {{"mean", ppl}, {"stderr", ppl * loss.standard_error}};
}

Json text_json(const TextResult& result) {
  Json out = {{"name", result.name}, {"window", result.window}, {"windows", result.windows}, {"tokens", result.tokens}};
  out["ppl"] = ppl_json(result.loss);
  if (result.positions.loss_original.empty()) return out;
  out["kl"] = mean_json(result.kl);
  if (!result.positions.kl_float.empty()) out["kl_float_activations"] = mean_json(result.kl_float);
  out["kl_median"] = result.kl_median;
  out["kl_99"] = result.kl_99;
  out["ppl_original"] = ppl_json(result.loss_original);
  out["ppl_ratio"] = ppl_json(result.loss_difference);
  out["top1"] = mean_json(result.top1);
  return out;
}

void print_text(const TextResult& result) {
  fmt::print("{}: {} windows of {}, {} tokens scored\n", result.name, result.windows, result.window, result.tokens);
  const auto line = [](const char* name, double mean, double error, int digits) {
    fmt::print("  {:<22} {:.{}f} ± {:.{}f}\n", name, mean, digits, error, digits);
  };
  if (!result.positions.loss_original.empty()) {
    line("KL", result.kl.mean, result.kl.standard_error, 5);
    if (!result.positions.kl_float.empty()) line("KL, float activations", result.kl_float.mean, result.kl_float.standard_error, 5);
    fmt::print("  {:<22} {:.5f} median, {:.4f} at 99 %\n", "KL of positions", result.kl_median, result.kl_99);
    line("same first token, %", 100 * result.top1.mean, 100 * result.top1.standard_error, 2);
    const double original = std::exp(result.loss_original.mean);
    line("perplexity, original", original, original * result.loss_original.standard_error, 3);
  }
  const double ppl = std::exp(result.loss.mean);
  line("perplexity", ppl, ppl * result.loss.standard_error, 3);
  if (!result.positions.loss_original.empty()) {
    const double ratio = std::exp(result.loss_difference.mean);
    line("perplexity ratio", ratio, ratio * result.loss_difference.standard_error, 4);
  }
}

Result<EvalText> read_text(const std::string& path, const Tokenizer& tokenizer, Protocol protocol) {
  TQ_ASSIGN(const std::string text, read_text_file(path));
  const size_t slash = path.rfind('/');
  return EvalText{slash == std::string::npos ? path : path.substr(slash + 1),
                  tokenizer.encode(text, false, protocol == Protocol::kSecondHalf)};
}

bool has_grid(const Model& model) {
  for (const auto& [name, tensor] : model.tensors)
    if (tensor.codec == CodecId::kGrid) return true;
  return false;
}

Status check_tasks(const std::string& tasks) {
  std::string rest = tasks + ",";
  while (!rest.empty()) {
    const std::string task = rest.substr(0, rest.find(','));
    rest.erase(0, task.size() + 1);
    if (task != "kl" && task != "ppl") return bad_usage("--tasks {}: kl and ppl exist", task);
  }
  return {};
}

Status act(const Flags& flags) {
  TQ_TRY(check_tasks(flags.tasks));
  const std::optional<Protocol> protocol = protocol_from_name(flags.protocol);
  if (!protocol) return bad_usage("--protocol {}: give huggingface or llama.cpp", flags.protocol);
  if (flags.tasks.find("kl") != std::string::npos && flags.against.empty() && flags.tasks != "kl,ppl")
    return bad_usage("the task kl needs --against ORIGINAL");
  TQ_ASSIGN(const Model model, load_model(flags.model));
  if (!model.tokenizer) return bad_input("{}: it has no tokenizer", flags.model);
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  TQ_ASSIGN(Network network, Network::create(model, session->backend(), session->threads()));
  std::optional<Model> original_model;
  std::optional<Network> original;
  if (!flags.against.empty()) {
    TQ_ASSIGN(original_model, load_model(flags.against));
    TQ_ASSIGN(original, Network::create(*original_model, session->backend(), session->threads()));
  }
  const EvalOptions options{.window = flags.window, .windows = flags.windows, .protocol = *protocol};
  const bool with_float = !flags.skip_float && original && has_grid(model);
  Json json = {{"model", flags.model}, {"protocol", flags.protocol}, {"backend", session->backend().name()}, {"texts", Json::array()}};
  if (!flags.against.empty()) json["original"] = flags.against;
  if (!flags.json)
    fmt::print(
        "protocol {}: {}\n", flags.protocol,
        *protocol == Protocol::kAll ? "every token of a window but the first is scored" : "the second half of every window is scored");
  for (const std::string& path : flags.texts) {
    TQ_ASSIGN(const EvalText text, read_text(path, *model.tokenizer, *protocol));
    TQ_ASSIGN(const TextResult result, evaluate(network, original ? &*original : nullptr, text, options, with_float, session->context()));
    json["texts"].push_back(text_json(result));
    if (!flags.json) print_text(result);
  }
  if (flags.json) fmt::print("{}\n", json.dump(2));
  return {};
}

}  // namespace

Command add_eval(CLI::App& root) {
  CLI::App* app = root.add_subcommand("eval", "Measure perplexity, and the divergence from the original");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->model, "Artifact, Hugging Face directory or GGUF file")->required();
  app->add_option("--against", flags->against, "The original model");
  app->add_option("--tasks", flags->tasks, "kl, ppl")->capture_default_str();
  app->add_option("--text", flags->texts, "Text files")->required();
  app->add_option("--window", flags->window, "Tokens of a window")->check(CLI::Range(16, 1 << 20))->capture_default_str();
  app->add_option("--windows", flags->windows, "Windows at most, from the front of each text")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option("--protocol", flags->protocol, "huggingface or llama.cpp")->capture_default_str();
  app->add_flag("--skip-float", flags->skip_float, "Leave out the divergence with float activations");
  app->add_flag("--json", flags->json, "Print facts as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
