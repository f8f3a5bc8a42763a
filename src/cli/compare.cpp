#include <algorithm>
#include <filesystem>

#include <CLI/CLI.hpp>

#include "base/output_file.h"
#include "cli/artifact_page.h"
#include "cli/build_id.h"
#include "cli/command.h"
#include "cli/measure.h"
#include "convert/import.h"
#include "eval/summary.h"
#include "quantize/job.h"
#include "quantize/stage_budgets.h"

namespace tq::cli {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::string model, output, bits = "2,3,4", methods = "all", effort = "normal", embedding = "original", head = "original";
  std::vector<std::string> calibration;
  int64_t calibration_tokens = 0;
  MeasureFlags measure;
  bool json = false;
  ComputeFlags compute;
};

constexpr const char* kAllMethods[] = {"turboquant", "rtn", "gptq", "awq", "quip"};

// An artifact of the comparison: made if it is not there.
struct Candidate {
  std::string method, bits_text, directory;
  QuantizeOptions options;
};

Result<std::vector<double>> bits_of(const std::string& list) {
  std::vector<double> out;
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    const std::string text = list.substr(at, end - at);
    char* rest = nullptr;
    const double bits = std::strtod(text.c_str(), &rest);
    if (text.empty() || *rest != '\0' || !(bits >= 2 && bits <= 8))
      return bad_usage("--bits {}: give numbers from 2 to 8, like 2,3,4", list);
    out.push_back(bits);
    at = end + 1;
  }
  return out;
}

Result<int> table_bits(const std::string& text, const char* flag) {
  if (text == "original") return 0;
  if (text.size() == 1 && text[0] >= '2' && text[0] <= '8') return text[0] - '0';
  return bad_usage("{} {}: give 2 to 8, or 'original'", flag, text);
}

Result<std::vector<std::string>> methods_of(const std::string& list) {
  std::vector<std::string> out;
  if (list == "all") return std::vector<std::string>(std::begin(kAllMethods), std::end(kAllMethods));
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    out.push_back(list.substr(at, end - at));
    if (!method_from_name(out.back())) return bad_usage("--methods {}: give all, or some of turboquant, gptq, awq, quip, rtn", list);
    at = end + 1;
  }
  return out;
}

Result<std::vector<Candidate>> candidates_of(const Flags& flags) {
  QuantizeOptions options;
  const std::optional<Effort> effort = effort_from_name(flags.effort);
  if (!effort) return bad_usage("--effort {}: give fast, normal or best", flags.effort);
  options.effort = *effort;
  options.report = true;
  options.calibration = flags.calibration;
  options.calibration_tokens = flags.calibration_tokens;
  TQ_ASSIGN(options.embedding_bits, table_bits(flags.embedding, "--embedding"));
  TQ_ASSIGN(options.head_bits, table_bits(flags.head, "--head"));
  TQ_ASSIGN(const std::vector<double> rates, bits_of(flags.bits));
  TQ_ASSIGN(const std::vector<std::string> methods, methods_of(flags.methods));
  std::vector<Candidate> out;
  for (const std::string& method : methods) {
    options.method = *method_from_name(method);
    for (const double bits : rates) {
      options.bits = bits;
      std::string name = fmt::format("{}-{}bit-{}", method, bits, flags.effort);
      if (options.head_bits > 0) name += "-head" + flags.head;
      if (options.embedding_bits > 0) name += "-embedding" + flags.embedding;
      out.push_back({method, fmt::format("{}", bits), flags.output + "/" + name, options});
    }
  }
  return out;
}

// Makes the artifacts that are not there; an interrupted one is continued. Candidates that a method cannot make, a rate that it does not
// have or a shape that it cannot take, are named and left out.
Status make_missing(const Model& model, std::vector<Candidate>& candidates, Session& session) {
  const Context context = session.context();
  std::vector<Candidate> there;
  const bool is_device = !session.training_backend().is_host();
  for (Candidate& candidate : candidates) {
    std::error_code ignored;
    if (!fs::exists(candidate.directory, ignored)) {
      const QuantizeOptions options = with_usual_stages(candidate.options, is_device);
      const auto plan = make_plan(model, with_stage_budgets(model.spec, options, is_device));
      if (!plan && plan.error().code != ErrorCode::kUsage && plan.error().code != ErrorCode::kBadInput) return Unexpected(plan.error());
      if (!plan) {
        context.listener.warn(fmt::format("{} at {} bits is left out: {}", candidate.method, candidate.bits_text, plan.error().message));
        continue;
      }
      context.listener.note("quantizing " + candidate.directory);
      const auto made = quantize(model, *plan, candidate.directory, true,
                                 {.main = session.backend(), .training = session.training_backend(), .build = "tq " + build_id()}, context,
                                 artifact_page(model, plan->options.bits));
      if (!made) return Unexpected(made.error());
    }
    there.push_back(std::move(candidate));
  }
  if (there.empty()) return bad_usage("none of the methods can make these rates");
  candidates = std::move(there);
  return {};
}

Json comparison_json(const Flags& flags, const Measurements& wanted, const std::vector<Candidate>& candidates,
                     const report::Report& report) {
  Json out = {{"original", flags.model},
              {"original_bits_linears", report.original->bits_linears},
              {"protocol", protocol_name(wanted.options.protocol)},
              {"effort", flags.effort},
              {"head", flags.head},
              {"embedding", flags.embedding},
              {"artifacts", Json::array()}};
  for (size_t i = 0; i < candidates.size(); ++i) {
    const report::Subject& subject = report.subjects[i];
    Json entry = {{"model", candidates[i].directory},
                  {"method", candidates[i].method},
                  {"bits", candidates[i].options.bits},
                  {"bits_linears_stored", subject.model.bits_linears},
                  {"bits_all", subject.model.bits_all},
                  {"file_bytes", subject.model.file_bytes},
                  {"texts", Json::array()}};
    for (const TextResult& text : subject.texts) entry["texts"].push_back(text_json(text));
    if (!subject.tasks.empty()) entry["tasks"] = Json::array();
    for (size_t t = 0; t < subject.tasks.size(); ++t) entry["tasks"].push_back(task_json(subject.tasks[t], &report.original_tasks[t]));
    out["artifacts"].push_back(std::move(entry));
  }
  return out;
}

void print_table(const report::Report& report) {
  fmt::print("\n{:<12} {:>8} {:>10}", "method", "bits", "bytes");
  for (const TextResult& text : report.subjects[0].texts) fmt::print("  {:>28}", "KL " + text.name.substr(0, 24));
  fmt::print("\n");
  for (const report::Subject& subject : report.subjects) {
    fmt::print("{:<12} {:>8.4f} {:>10}", subject.method, subject.model.bits_linears,
               bytes_text(static_cast<double>(subject.model.file_bytes)));
    for (const TextResult& text : subject.texts)
      fmt::print("  {:>28}", fmt::format("{:.5f} ± {:.5f}", text.kl.mean, text.kl.standard_error));
    fmt::print("\n");
  }
}

Status act(const Flags& flags) {
  TQ_ASSIGN(const Measurements wanted, measurements_of(flags.measure, true));
  if (flags.compute.gpus > 1) return bad_usage("--gpus {}: comparing uses one card", flags.compute.gpus);
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  TQ_ASSIGN(std::vector<Candidate> candidates, candidates_of(flags));
  TQ_ASSIGN(const std::unique_ptr<Loaded> original, load(flags.model, *session));
  std::error_code error;
  fs::create_directories(flags.output, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be created: {}", flags.output, error.message());
  TQ_TRY(make_missing(original->model, candidates, *session));
  report::Report report{.title = "Methods on " + fs::path(flags.model).filename().string(),
                        .original = report::gather_facts(original->model),
                        .protocol = wanted.texts.empty() ? "" : protocol_text(wanted.options.protocol)};
  std::vector<std::unique_ptr<Loaded>> models;
  for (const Candidate& candidate : candidates) {
    TQ_ASSIGN(std::unique_ptr<Loaded> loaded, load(candidate.directory, *session));
    report.subjects.push_back({.model = report::gather_facts(loaded->model), .texts = {}, .tasks = {}, .method = candidate.method});
    report.subjects.back().model.name = candidate.method + " " + candidate.bits_text;
    models.push_back(std::move(loaded));
  }
  TQ_ASSIGN(const std::vector<CalibrationText> calibration, read_calibration(candidates[0].options));
  TQ_TRY(measure({models, original.get(), wanted, calibration, !flags.json}, *session, report));
  const Json json = comparison_json(flags, wanted, candidates, report);
  TQ_TRY(write_file(flags.output + "/report.html", report::page(report)));
  TQ_TRY(write_file(flags.output + "/compare.json", json.dump(2) + "\n"));
  if (flags.json) {
    fmt::print("{}\n", json.dump(2));
  } else {
    print_table(report);
    fmt::print("report: {0}/report.html, figures: {0}/compare.json\n", flags.output);
  }
  return {};
}

}  // namespace

Command add_compare(CLI::App& root) {
  CLI::App* app = root.add_subcommand("compare", "Quantize by several methods at several rates and measure all against the original");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->model, "Hugging Face directory or GGUF file")->required();
  app->add_option("-o,--output", flags->output, "Folder for the artifacts, report.html and compare.json; what is there is not made again")
      ->required();
  app->add_option("-b,--bits", flags->bits, "Rates, 2 to 8")->capture_default_str();
  app->add_option("--methods", flags->methods, "all, or some of turboquant, gptq, awq, quip, rtn")->capture_default_str();
  app->add_option("--effort", flags->effort, "fast, normal or best")->capture_default_str();
  app->add_option("--embedding", flags->embedding, "Bits of the embedding, or 'original'")->capture_default_str();
  app->add_option("--head", flags->head, "Bits of the head, or 'original'")->capture_default_str();
  app->add_option("--calibration", flags->calibration, "Text files to measure on instead of the built-in text");
  app->add_option("--calibration-tokens", flags->calibration_tokens, "Tokens to measure on; 0 follows the effort")
      ->check(CLI::NonNegativeNumber);
  add_measure_flags(*app, flags->measure);
  app->add_flag("--json", flags->json, "Print facts as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
