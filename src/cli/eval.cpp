#include <CLI/CLI.hpp>

#include "base/json_text.h"
#include "base/output_file.h"
#include "cli/command.h"
#include "cli/measure.h"
#include "eval/summary.h"

namespace tq::cli {
namespace {

struct Flags {
  std::vector<std::string> models;
  std::string against, report;
  MeasureFlags measure;
  bool json = false;
  ComputeFlags compute;
};

Json result_json(size_t index, const Flags& flags, const Measurements& wanted, const report::Report& report, Session& session) {
  const report::Subject& subject = report.subjects[index];
  Json out = {{"model", flags.models[index]}};
  if (report.original) out["original"] = flags.against;
  out["protocol"] = protocol_name(wanted.options.protocol);
  out["backend"] = session.backend().name();
  out["texts"] = Json::array();
  for (const TextResult& text : subject.texts) out["texts"].push_back(text_json(text));
  if (subject.tasks.empty()) return out;
  out["tasks"] = Json::array();
  for (size_t i = 0; i < subject.tasks.size(); ++i)
    out["tasks"].push_back(task_json(subject.tasks[i], report.original ? &report.original_tasks[i] : nullptr));
  return out;
}

Status act(const Flags& flags) {
  TQ_ASSIGN(const Measurements wanted, measurements_of(flags.measure, !flags.against.empty()));
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  report::Report report;
  if (!wanted.texts.empty()) report.protocol = protocol_text(wanted.options.protocol);
  std::unique_ptr<Loaded> original;
  if (!flags.against.empty()) {
    TQ_ASSIGN(original, load(flags.against, *session));
    report.original = report::gather_facts(original->model);
  }
  std::vector<std::unique_ptr<Loaded>> models;
  for (const std::string& path : flags.models) {
    TQ_ASSIGN(std::unique_ptr<Loaded> loaded, load(path, *session));
    report.subjects.push_back({.model = report::gather_facts(loaded->model), .texts = {}, .tasks = {}});
    models.push_back(std::move(loaded));
  }
  const std::vector<CalibrationText> calibration = known_calibration(models);
  TQ_TRY(measure({models, original.get(), wanted, calibration, !flags.json}, *session, report));
  if (!flags.report.empty()) TQ_TRY(write_file(flags.report, report::page(report)));
  if (!flags.json) {
    if (!flags.report.empty()) fmt::print("report: {}\n", flags.report);
    return {};
  }
  Json results = Json::array();
  for (size_t i = 0; i < models.size(); ++i) results.push_back(result_json(i, flags, wanted, report, *session));
  // One model: its object. Several: a list of such objects.
  fmt::print("{}\n", json_text(results.size() == 1 ? results[0] : Json{{"models", results}}, 2));
  return {};
}

}  // namespace

Command add_eval(CLI::App& root) {
  CLI::App* app = root.add_subcommand("eval", "Measure perplexity, divergence from the original, and tasks");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->models, "Artifacts, Hugging Face directories or GGUF files")->required();
  app->add_option("--against", flags->against, "The original model");
  add_measure_flags(*app, flags->measure);
  app->add_option("--report", flags->report, "Write an HTML page with pictures");
  app->add_flag("--json", flags->json, "Print facts as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
