#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <CLI/CLI.hpp>

#include "base/json_text.h"
#include "base/output_file.h"
#include "cli/command.h"
#include "cli/measure.h"
#include "eval/summary.h"

namespace tq::cli {
namespace {

namespace fs = std::filesystem;

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

// Whether nothing but an earlier report, or an empty file, is there.
bool may_be_replaced(const std::string& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return false;  // a pipe would be waited for
  constexpr std::string_view kBeginning = "<!doctype html";
  std::string beginning(kBeginning.size(), '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(beginning.data(), static_cast<std::streamsize>(beginning.size()));
  beginning.resize(static_cast<size_t>(file.gcount()));
  return beginning == kBeginning || (file.eof() && beginning.empty());
}

// Whether a report there is one that the command reads, or an artifact's own. Of what else it reads nothing begins as reports do.
bool is_of(const std::string& path, const std::string& read) {
  std::error_code error;
  if (fs::equivalent(path, read, error)) return true;
  return fs::exists(read + "/turboquant.json", error) && fs::equivalent(path, read + "/report.html", error);
}

Status check_replaced(const std::string& path, const Flags& flags) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(path, error))) return {};
  if (!may_be_replaced(path)) return bad_usage("--report {}: what is there is no report of tq eval; give another name, or remove it", path);
  std::vector<std::string> reads = flags.models;
  reads.insert(reads.end(), flags.measure.texts.begin(), flags.measure.texts.end());
  if (!flags.against.empty()) reads.push_back(flags.against);
  for (const std::string& read : reads)
    if (is_of(path, read)) return bad_usage("--report {}: it belongs to {}, which is read; give another name", path, read);
  return {};
}

// Whether the report can be written, which comes last.
Status check_report(const Flags& flags) {
  const std::string& path = flags.report;
  std::error_code error;
  if (path.empty()) return {};
  if (fs::is_directory(path, error)) return fail(ErrorCode::kFailed, "--report {}: it is a folder; give the name of a file", path);
  const fs::path folder = fs::absolute(path, error).parent_path();
  if (!fs::is_directory(folder, error)) return fail(ErrorCode::kFailed, "--report {}: there is no folder {}", path, folder.string());
  if (access(folder.c_str(), W_OK) != 0) return fail(ErrorCode::kFailed, "--report {}: you may not write in {}", path, folder.string());
  return check_replaced(path, flags);
}

Result<std::unique_ptr<Loaded>> open_for(const Measurements& wanted, const std::string& path) {
  TQ_ASSIGN(std::unique_ptr<Loaded> loaded, open(path));
  TQ_TRY(check_windows(wanted, loaded->model));
  return loaded;
}

Status act(const Flags& flags, const CLI::App& app) {
  TQ_ASSIGN(const Measurements wanted, measurements_of(flags.measure, !flags.against.empty()));
  TQ_TRY(check_measured(app, wanted));
  TQ_TRY(check_report(flags));
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  report::Report report;
  if (!wanted.texts.empty()) report.protocol = protocol_text(wanted.options.protocol);
  std::unique_ptr<Loaded> original;
  if (!flags.against.empty()) {
    TQ_ASSIGN(original, open_for(wanted, flags.against));
    report.original = report::gather_facts(original->model);
  }
  std::vector<std::unique_ptr<Loaded>> models;
  for (const std::string& path : flags.models) {
    TQ_ASSIGN(std::unique_ptr<Loaded> loaded, open_for(wanted, path));
    report.subjects.push_back({.model = report::gather_facts(loaded->model), .texts = {}, .tasks = {}});
    models.push_back(std::move(loaded));
  }
  const Model& first = models[0]->model;
  TQ_ASSIGN(const std::vector<EvalText> texts, encode_texts(wanted, first));
  for (const auto& each : models) TQ_TRY(check_same_tokens(wanted, texts, first, each->model));
  if (original) TQ_TRY(check_same_tokens(wanted, texts, first, original->model));
  const KnownCalibration calibration = known_calibration(models);
  TQ_TRY(measure({models, original.get(), wanted, texts, calibration, !flags.json}, *session, report));
  if (!flags.report.empty()) TQ_TRY(write_file_among_others(flags.report, report::page(report)));
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
  return {app, [flags, app] { return act(*flags, *app); }};
}

}  // namespace tq::cli
