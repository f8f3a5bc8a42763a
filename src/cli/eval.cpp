#include <cmath>

#include "base/mapped_file.h"
#include "base/output_file.h"
#include "cli/command.h"
#include "convert/import.h"
#include "eval/divergence.h"
#include "eval/report/report.h"

namespace tq::cli {
namespace {

struct Flags {
  std::vector<std::string> models;
  std::string against, tasks = "kl,ppl", protocol = "huggingface", report;
  std::vector<std::string> texts;
  int64_t window = 1024, windows = 40;
  bool json = false, skip_float = false;
  ComputeFlags compute;
};

constexpr size_t kPositionParts = 16;

Json mean_json(const Mean& mean) { return {{"mean", mean.mean}, {"stderr", mean.standard_error}}; }

// exp(x) under `name`, and its standard error to first order.
void add_exp(Json& out, const std::string& name, const Mean& mean) {
  out[name] = std::exp(mean.mean);
  out[name + "_stderr"] = std::exp(mean.mean) * mean.standard_error;
}

Json text_json(const TextResult& result) {
  Json out = {{"name", result.name}, {"window", result.window}, {"windows", result.windows}, {"tokens", result.tokens}};
  const bool with_original = !result.positions.loss_original.empty();
  if (with_original) out["kl"] = mean_json(result.kl);
  add_exp(out, "ppl", result.loss);
  if (!with_original) return out;
  add_exp(out, "ppl_original", result.loss_original);
  add_exp(out, "ppl_ratio", result.loss_difference);
  out["top1"] = result.top1.mean;
  out["top1_stderr"] = result.top1.standard_error;
  if (!result.positions.kl_float.empty()) out["kl_float_activations"] = mean_json(result.kl_float);
  out["kl_median"] = result.kl_median;
  out["kl_99"] = result.kl_99;
  out["kl_by_position"] = report::by_position(result.positions.kl, result.positions.per_window, kPositionParts);
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

Status check_flags(const Flags& flags) {
  std::string rest = flags.tasks + ",";
  while (!rest.empty()) {
    const std::string task = rest.substr(0, rest.find(','));
    rest.erase(0, task.size() + 1);
    if (task != "kl" && task != "ppl") return bad_usage("--tasks {}: kl and ppl exist", task);
  }
  if (flags.tasks == "kl" && flags.against.empty()) return bad_usage("the task kl needs --against ORIGINAL");
  return {};
}

std::string protocol_text(Protocol protocol) {
  return protocol == Protocol::kAll ? "protocol huggingface: every token of a window but the first is scored"
                                    : "protocol llama.cpp: the second half of every window is scored, after a first token bos if the "
                                      "vocabulary adds one";
}

struct Original {
  Model model;
  std::optional<Network> network;
};

// One model on every text. With a report, its facts and figures are added to it.
Result<Json> measure(const std::string& path, Original* original, const Flags& flags, Protocol protocol, Session& session,
                     report::Report& report) {
  TQ_ASSIGN(const Model model, load_model(path));
  if (!model.tokenizer) return bad_input("{}: it has no tokenizer, so that no text can be run through it", path);
  TQ_ASSIGN(Network network, Network::create(model, session.backend()));
  const EvalOptions options{.window = flags.window, .windows = flags.windows, .protocol = protocol};
  const bool with_float = !flags.skip_float && original && has_grid(model);
  report::Subject subject;
  if (!flags.report.empty()) subject.model = report::gather_facts(model);
  Json out = {{"model", path}};
  if (original) out["original"] = flags.against;
  out["protocol"] = flags.protocol;
  out["backend"] = session.backend().name();
  out["texts"] = Json::array();
  for (const std::string& name : flags.texts) {
    TQ_ASSIGN(const EvalText text, read_text(name, *model.tokenizer, protocol));
    TQ_ASSIGN(TextResult result, evaluate(network, original ? &*original->network : nullptr, text, options, with_float, session.context()));
    out["texts"].push_back(text_json(result));
    if (!flags.json) print_text(result);
    if (!flags.report.empty()) subject.texts.push_back(std::move(result));
  }
  report.subjects.push_back(std::move(subject));
  return out;
}

Status act(const Flags& flags) {
  TQ_TRY(check_flags(flags));
  const std::optional<Protocol> protocol = protocol_from_name(flags.protocol);
  if (!protocol) return bad_usage("--protocol {}: give huggingface or llama.cpp", flags.protocol);
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  report::Report report{.original = {}, .subjects = {}, .protocol = protocol_text(*protocol)};
  std::optional<Original> original;
  if (!flags.against.empty()) {
    original.emplace();
    TQ_ASSIGN(original->model, load_model(flags.against));
    TQ_ASSIGN(original->network, Network::create(original->model, session->backend()));
    if (!flags.report.empty()) report.original = report::gather_facts(original->model);
  }
  if (!flags.json) fmt::print("{}\n", report.protocol);
  Json results = Json::array();
  for (const std::string& path : flags.models) {
    if (!flags.json && flags.models.size() > 1) fmt::print("\n{}\n", path);
    TQ_ASSIGN(Json result, measure(path, original ? &*original : nullptr, flags, *protocol, *session, report));
    results.push_back(std::move(result));
  }
  if (!flags.report.empty()) TQ_TRY(write_file(flags.report, report::page(report)));
  // One model: its object. Several: a list of such objects.
  if (flags.json) fmt::print("{}\n", (results.size() == 1 ? results[0] : Json{{"models", results}}).dump(2));
  else if (!flags.report.empty()) fmt::print("report: {}\n", flags.report);
  return {};
}

}  // namespace

Command add_eval(CLI::App& root) {
  CLI::App* app = root.add_subcommand("eval", "Measure perplexity, and the divergence from the original");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->models, "Artifacts, Hugging Face directories or GGUF files")->required();
  app->add_option("--against", flags->against, "The original model");
  app->add_option("--tasks", flags->tasks, "kl, ppl")->capture_default_str();
  app->add_option("--text", flags->texts, "Text files")->required();
  app->add_option("--window", flags->window, "Tokens of a window")->check(CLI::Range(16, 1 << 20))->capture_default_str();
  app->add_option("--windows", flags->windows, "Windows at most, from the front of each text")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option("--protocol", flags->protocol, "huggingface or llama.cpp")->capture_default_str();
  app->add_flag("--skip-float", flags->skip_float, "Leave out the divergence with float activations");
  app->add_option("--report", flags->report, "Write an HTML page with pictures");
  app->add_flag("--json", flags->json, "Print facts as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
