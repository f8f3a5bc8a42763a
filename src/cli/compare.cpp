#include <algorithm>
#include <chrono>
#include <filesystem>

#include <CLI/CLI.hpp>

#include "base/hash.h"
#include "base/json_text.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "cli/artifact_page.h"
#include "cli/build_id.h"
#include "cli/candidates.h"
#include "cli/comparison_tables.h"
#include "convert/import.h"
#include "eval/summary.h"
#include "quantize/budget.h"
#include "quantize/estimate.h"
#include "quantize/job.h"
#include "quantize/job_folder.h"
#include "quantize/origin.h"

namespace tq::cli {
namespace {

namespace fs = std::filesystem;

// Seconds that the artifact took to make, over interruptions; 0: not known.
std::string seconds_path(const CompareFlags& flags, const Candidate& candidate) {
  return flags.output + "/results/" + candidate.name + "/quantizing.json";
}

double known_seconds(const CompareFlags& flags, const Candidate& candidate) {
  const auto json = read_json_file(seconds_path(flags, candidate));
  if (!json || !json->is_object()) return 0;
  const auto found = json->find("seconds");
  return found != json->end() && found->is_number() ? found->get<double>() : 0;
}

Status add_seconds(const CompareFlags& flags, const Candidate& candidate, double seconds) {
  const std::string path = seconds_path(flags, candidate);
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be created: {}", path, error.message());
  return write_file(path, Json{{"seconds", known_seconds(flags, candidate) + seconds}}.dump() + "\n");
}

uint64_t folder_bytes(const std::string& directory) {
  std::error_code error;
  uint64_t bytes = 0;
  for (auto it = fs::recursive_directory_iterator(directory, error); !error && it != fs::end(it); it.increment(error)) {
    std::error_code unknown;
    const uint64_t size = it->is_regular_file(unknown) ? it->file_size(unknown) : 0;
    if (!unknown) bytes += size;
  }
  return bytes;
}

class Comparison {
 public:
  Comparison(const CompareFlags& flags, const Measurements& wanted, std::vector<Candidate> candidates, Session& session)
      : flags_(flags), wanted_(wanted), candidates_(std::move(candidates)), session_(session), trainer_(trainer_of(session.backend())) {}

  Status run() {
    TQ_ASSIGN(original_, open(flags_.model));
    TQ_TRY(check_windows(wanted_, original_->model));
    TQ_ASSIGN(texts_, encode_texts(wanted_, original_->model));
    TQ_TRY(sort_out());
    warn_of_quantized_source(original_->model, session_.context().listener);
    if (flags_.dry_run) return print_plan();
    std::error_code error;
    fs::create_directories(flags_.output, error);
    if (error) return fail(ErrorCode::kFailed, "{}: cannot be created: {}", flags_.output, error.message());
    for (const Candidate& candidate : candidates_)
      if (!candidate.is_there) TQ_TRY(make(candidate));
    TQ_TRY(measure_all());
    return write();
  }

 private:
  bool is_device() const { return trainer_ == Trainer::kDevice; }
  QuantizeOptions budgeted(const Candidate& candidate) const {
    return with_stage_budgets(original_->model.spec, candidate.options, trainer_);
  }
  Result<QuantizePlan> plan_of(const Candidate& candidate) const { return make_plan(original_->model, budgeted(candidate)); }

  // Candidates that a method cannot make, a rate that it does not have or a shape that it cannot take, are named and left out. The others
  // have all as many tokens as the one that takes the most within its budget.
  Status sort_out() {
    std::vector<Candidate> possible;
    std::optional<QuantizeOptions> largest;
    for (Candidate& candidate : candidates_) {
      const auto plan = plan_of(candidate);
      if (!plan && plan.error().code != ErrorCode::kUsage && plan.error().code != ErrorCode::kBadInput) return Unexpected(plan.error());
      if (!plan) {
        left_out_.push_back({std::string(candidate.variant.name), plan.error().message, candidate.options.bits});
        session_.context().listener.warn(fmt::format("left out: {}: {}", candidate.title(), plan.error().message));
        continue;
      }
      candidate.label = label_of(candidate.variant, *plan);
      if (!largest || calibration_tokens(plan->options) > calibration_tokens(*largest)) largest = plan->options;
      possible.push_back(std::move(candidate));
    }
    candidates_ = std::move(possible);
    if (candidates_.empty()) return bad_usage("none of the methods can make these rates");
    TQ_ASSIGN(const int64_t tokens, tokens_at_hand(original_->model, *largest));
    for (Candidate& candidate : candidates_) candidate.options.calibration_tokens = tokens;
    return find_those_there();
  }

  // What is there already must be what would be made.
  Status find_those_there() {
    for (Candidate& candidate : candidates_) {
      std::error_code ignored;
      candidate.is_there = fs::exists(candidate.directory, ignored);
      if (!candidate.is_there) continue;
      TQ_ASSIGN(const QuantizePlan plan, plan_of(candidate));
      TQ_ASSIGN(const Json record, read_json_file(candidate.directory + "/turboquant.json"));
      if (const std::string other = other_options(record, original_->model, plan); !other.empty())
        return bad_usage("{}: made from another source or with other options ({}); remove it, or give another -o", candidate.directory,
                         other);
    }
    return {};
  }

  Result<std::vector<PlannedArtifact>> planned() const {
    std::vector<PlannedArtifact> out;
    for (const Candidate& candidate : candidates_) {
      TQ_ASSIGN(const QuantizePlan plan, plan_of(candidate));
      const TimeEstimate time =
          is_device() ? card_time(original_->model, plan) : estimate_time(original_->model, plan, session_.backend(), session_.context());
      out.push_back({&candidate, mean_bits(plan).stored, most_bytes(original_->model, plan), time.all()});
    }
    return out;
  }

  Status print_plan() const {
    TQ_ASSIGN(const std::vector<PlannedArtifact> artifacts, planned());
    if (flags_.json) {
      fmt::print("{}\n", json_text(plan_json(flags_, artifacts, left_out_), 2));
      return {};
    }
    fmt::print("{} -> {}: {} tokens of calibration, effort {}\n\n{}", describe(original_->model), flags_.output,
               candidates_[0].options.calibration_tokens, flags_.effort, plan_table(artifacts, left_out_, is_device()));
    return {};
  }

  // An interrupted one is continued.
  Status make(const Candidate& candidate) {
    TQ_ASSIGN(const QuantizePlan plan, plan_of(candidate));
    std::error_code ignored;
    if (!fs::exists(candidate.directory + ".partial", ignored)) fs::remove(seconds_path(flags_, candidate), ignored);
    session_.context().listener.note("quantizing " + candidate.directory);
    const auto start = std::chrono::steady_clock::now();
    const QuantizeOutput output{
        .directory = candidate.directory, .resume = true, .report = artifact_page(original_->model, plan.options.bits)};
    const auto made =
        quantize(original_->model, plan, output, {.backend = session_.backend(), .build = "tq " + build_id()}, session_.context());
    TQ_TRY(add_seconds(flags_, candidate, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()));
    return made ? Status() : Unexpected(made.error());
  }

  Status measure_all() {
    report_.original = report::gather_facts(original_->model);
    report_.title = "Methods on " + report_.original->name;
    if (!wanted_.texts.empty()) report_.protocol = protocol_text(wanted_.options.protocol);
    add_notes();
    std::vector<std::unique_ptr<Loaded>> models;
    const KeptResults results(flags_.output + "/results", "tq " + build_id() + " on " + session_.backend().kind());
    Kept kept{results, {}, {}, source_facts(original_->model)};
    for (const Candidate& candidate : candidates_) {
      TQ_ASSIGN(std::unique_ptr<Loaded> loaded, open(candidate.directory));
      TQ_TRY(check_same_tokens(wanted_, texts_, original_->model, loaded->model));
      TQ_ASSIGN(const auto record, MappedFile::open(candidate.directory + "/turboquant.json"));
      kept.names.push_back(candidate.name);
      kept.identities.push_back(hex64(hash64(record->bytes())));
      report_.subjects.push_back({.model = report::gather_facts(loaded->model), .texts = {}, .tasks = {}, .method = candidate.label});
      report_.subjects.back().model.name = candidate.title();
      models.push_back(std::move(loaded));
    }
    KnownCalibration calibration;
    TQ_ASSIGN(calibration.texts, read_calibration(candidates_[0].options));
    return measure({models, original_.get(), wanted_, texts_, calibration, false, &kept}, session_, report_);
  }

  void add_notes() {
    const QuantizeOptions& options = candidates_[0].options;
    report_.notes.push_back(fmt::format("All calibrated on the same {} tokens of {}; effort {}; head: {}, embedding: {}.",
                                        options.calibration_tokens,
                                        options.calibration.empty() ? "the built-in text" : "the files that --calibration names",
                                        flags_.effort, flags_.head, flags_.embedding));
    for (const LeftOut& each : left_out_)
      report_.notes.push_back(fmt::format("Left out: {} at {:g} bits: {}.", each.method, each.bits, each.why));
  }

  Json artifact_json(size_t i) const {
    const report::Subject& subject = report_.subjects[i];
    const Candidate& candidate = candidates_[i];
    Json entry = {{"model", candidate.directory},
                  {"method", candidate.variant.name},
                  {"label", candidate.label},
                  {"bits", candidate.options.bits},
                  {"bits_linears_stored", subject.model.bits_linears},
                  {"bits_all", subject.model.bits_all},
                  {"bytes", folder_bytes(candidate.directory)},
                  {"file_bytes", subject.model.file_bytes}};
    if (const double seconds = known_seconds(flags_, candidate); seconds > 0) entry["seconds_quantizing"] = seconds;
    entry["stages"] = {{"allocate", uses_allocation(candidate.options)},
                       {"calibrate", uses_calibration(candidate.options)},
                       {"tune", uses_tuning(candidate.options)}};
    entry["texts"] = Json::array();
    for (const TextResult& text : subject.texts) entry["texts"].push_back(text_json(text));
    if (!subject.tasks.empty()) entry["tasks"] = Json::array();
    for (size_t t = 0; t < subject.tasks.size(); ++t) entry["tasks"].push_back(task_json(subject.tasks[t], &report_.original_tasks[t]));
    return entry;
  }

  Json json() const {
    const QuantizeOptions& options = candidates_[0].options;
    Json out = {{"original", flags_.model},
                {"original_bits_linears", report_.original->bits_linears},
                {"protocol", protocol_name(wanted_.options.protocol)},
                {"effort", flags_.effort},
                {"head", flags_.head},
                {"embedding", flags_.embedding},
                {"calibration", options.calibration.empty() ? std::vector{std::string(kBuiltInCalibration)} : options.calibration},
                {"calibration_tokens", options.calibration_tokens},
                {"build", build_id()},
                {"backend", session_.backend().name()},
                {"processor", processor_name()},
                {"artifacts", Json::array()},
                {"left_out", left_out_json(left_out_)}};
    for (size_t i = 0; i < candidates_.size(); ++i) out["artifacts"].push_back(artifact_json(i));
    return out;
  }

  Status write() const {
    const Json all = json();
    TQ_TRY(write_file_among_others(flags_.output + "/report.html", report::page(report_)));
    TQ_TRY(write_file_among_others(flags_.output + "/compare.json", json_text(all, 2) + "\n"));
    if (flags_.json) {
      fmt::print("{}\n", json_text(all, 2));
      return {};
    }
    std::vector<ComparedModel> rows;
    for (size_t i = 0; i < candidates_.size(); ++i)
      rows.push_back({&report_.subjects[i], candidates_[i].label, candidates_[i].options.bits, folder_bytes(candidates_[i].directory),
                      known_seconds(flags_, candidates_[i])});
    fmt::print("{}{}", text_table(rows, report_), task_table(rows, report_));
    for (const std::string& note : report_.notes) fmt::print("{}\n", note);
    fmt::print("report: {0}/report.html, figures: {0}/compare.json\n", flags_.output);
    return {};
  }

  const CompareFlags& flags_;
  const Measurements& wanted_;
  std::vector<Candidate> candidates_;
  std::vector<LeftOut> left_out_;
  Session& session_;
  Trainer trainer_;
  std::unique_ptr<Loaded> original_;
  std::vector<EvalText> texts_;  // as the original's tokenizer encodes them
  report::Report report_;
};

Status act(const CompareFlags& flags, const CLI::App& app) {
  TQ_ASSIGN(const Measurements wanted, measurements_of(flags.measure, true));
  TQ_TRY(check_measured(app, wanted));
  if (flags.compute.gpus > 1) return bad_usage("--gpus {}: comparing uses one card", flags.compute.gpus);
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  TQ_ASSIGN(std::vector<Candidate> candidates, candidates_of(flags, trainer_of(session->backend())));
  TQ_TRY(check_stages(app, candidates));
  const Status done = Comparison(flags, wanted, std::move(candidates), *session).run();
  if (!done && done.error().code == ErrorCode::kInterrupted)
    return fail(ErrorCode::kInterrupted, "stopped; what is done is kept in {}, the same command goes on", flags.output);
  return done;
}

}  // namespace

Command add_compare(CLI::App& root) {
  CLI::App* app = root.add_subcommand("compare", "Quantize by several methods at several rates and measure all against the original");
  auto flags = std::make_shared<CompareFlags>();
  add_compare_flags(*app, *flags);
  return {app, [flags, app] { return act(*flags, *app); }};
}

}  // namespace tq::cli
