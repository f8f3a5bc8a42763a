#include <algorithm>
#include <chrono>
#include <filesystem>

#include <CLI/CLI.hpp>

#include "base/hash.h"
#include "base/json_text.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "cli/artifact_page.h"
#include "cli/at_least_zero.h"
#include "cli/build_id.h"
#include "cli/command.h"
#include "cli/comparison_tables.h"
#include "cli/measure.h"
#include "cli/units.h"
#include "cli/variants.h"
#include "convert/import.h"
#include "eval/summary.h"
#include "quantize/estimate.h"
#include "quantize/job.h"
#include "quantize/job_folder.h"
#include "quantize/stage_budgets.h"

namespace tq::cli {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::string model, output, bits = "2,3,4", methods = "all", effort = "normal", embedding = "original", head = "original";
  std::string allocate, calibrate, tune;
  std::vector<std::string> calibration;
  int64_t calibration_tokens = 0, calibrate_steps = 0, tune_steps = 0;
  uint64_t quantize_seed = 0;
  MeasureFlags measure;
  bool json = false, dry_run = false;
  ComputeFlags compute;
};

// An artifact of the comparison: made if it is not there.
struct Candidate {
  Variant variant;
  QuantizeOptions options;
  std::string name, directory, label;
  bool is_there = false;

  std::string title() const { return fmt::format("{}, {:g} bits", label, options.bits); }
};

// A method and rate that is not compared.
struct LeftOut {
  std::string method, why;
  double bits = 0;
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
    if (std::find(out.begin(), out.end(), bits) == out.end()) out.push_back(bits);
    at = end + 1;
  }
  return out;
}

// What all methods have alike.
Result<QuantizeOptions> common_options(const Flags& flags) {
  QuantizeOptions options;
  const std::optional<Effort> effort = effort_from_name(flags.effort);
  if (!effort) return bad_usage("--effort {}: give fast, normal or best", flags.effort);
  options.effort = *effort;
  options.report = true;
  options.calibration = flags.calibration;
  options.calibration_tokens = flags.calibration_tokens;
  options.seed = flags.quantize_seed;
  options.calibrate_steps = flags.calibrate_steps, options.tune_steps = flags.tune_steps;
  TQ_ASSIGN(options.embedding_bits, table_bits(flags.embedding, "--embedding"));
  TQ_ASSIGN(options.head_bits, table_bits(flags.head, "--head"));
  return options;
}

QuantizeOptions options_of(QuantizeOptions options, const Variant& variant, const Flags& flags, Trainer trainer) {
  options.method = variant.method;
  if (!variant.has_groups) options.group = 0;
  if (variant.method == Method::kTurboquant)
    for (const auto& [flag, stage] :
         {std::pair(&flags.allocate, &options.allocate), {&flags.calibrate, &options.calibrate}, {&flags.tune, &options.tune}})
      if (!flag->empty()) *stage = *flag == "on";
  if (variant.is_tuned) options.calibrate = options.tune = true;
  return with_usual_stages(options, trainer);
}

Result<std::vector<Candidate>> candidates_of(const Flags& flags, Trainer trainer) {
  TQ_ASSIGN(const QuantizeOptions common, common_options(flags));
  TQ_ASSIGN(const std::vector<double> rates, bits_of(flags.bits));
  TQ_ASSIGN(const std::vector<Variant> chosen, variants_of(flags.methods));
  std::vector<Candidate> out;
  for (const Variant& variant : chosen)
    for (const double bits : rates) {
      QuantizeOptions options = common;
      options.bits = bits;
      options = options_of(options, variant, flags, trainer);
      std::string name = fmt::format("{}-{}bit-{}", variant.name, bits, flags.effort);
      if (options.head_bits > 0) name += "-head" + flags.head;
      if (options.embedding_bits > 0) name += "-embedding" + flags.embedding;
      out.push_back({variant, options, name, flags.output + "/" + name, std::string(variant.label), false});
    }
  return out;
}

// Seconds that the artifact took to make, over interruptions; 0: not known.
std::string seconds_path(const Flags& flags, const Candidate& candidate) {
  return flags.output + "/results/" + candidate.name + "/quantizing.json";
}

double known_seconds(const Flags& flags, const Candidate& candidate) {
  const auto json = read_json_file(seconds_path(flags, candidate));
  if (!json || !json->is_object()) return 0;
  const auto found = json->find("seconds");
  return found != json->end() && found->is_number() ? found->get<double>() : 0;
}

Status add_seconds(const Flags& flags, const Candidate& candidate, double seconds) {
  const std::string path = seconds_path(flags, candidate);
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be created: {}", path, error.message());
  return write_file(path, Json{{"seconds", known_seconds(flags, candidate) + seconds}}.dump() + "\n");
}

class Comparison {
 public:
  Comparison(const Flags& flags, const Measurements& wanted, std::vector<Candidate> candidates, Session& session)
      : flags_(flags),
        wanted_(wanted),
        candidates_(std::move(candidates)),
        session_(session),
        trainer_(trainer_of(session.training_backend())) {}

  Status run() {
    TQ_ASSIGN(original_, open(flags_.model));
    TQ_TRY(check_texts(wanted_, *original_->model.tokenizer));
    TQ_TRY(sort_out());
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
    int64_t tokens = 0;
    for (Candidate& candidate : candidates_) {
      const auto plan = plan_of(candidate);
      if (!plan && plan.error().code != ErrorCode::kUsage && plan.error().code != ErrorCode::kBadInput) return Unexpected(plan.error());
      if (!plan) {
        left_out_.push_back({std::string(candidate.variant.name), plan.error().message, candidate.options.bits});
        session_.context().listener.warn(fmt::format("left out: {}: {}", candidate.title(), plan.error().message));
        continue;
      }
      candidate.label = label_of(candidate.variant, *plan);
      tokens = std::max(tokens, calibration_tokens(budgeted(candidate)));
      possible.push_back(std::move(candidate));
    }
    candidates_ = std::move(possible);
    if (candidates_.empty()) return bad_usage("none of the methods can make these rates");
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

  Status print_plan() const {
    const Context context = session_.context();
    double seconds = 0;
    uint64_t bytes = 0;
    fmt::print("{} -> {}: {} tokens of calibration, effort {}\n\n{:<24} {:>5} {:>8} {:>10} {:>8}\n", describe(original_->model),
               flags_.output, candidates_[0].options.calibration_tokens, flags_.effort, "method", "bits", "stored", "bytes", "seconds");
    for (const Candidate& candidate : candidates_) {
      TQ_ASSIGN(const QuantizePlan plan, plan_of(candidate));
      const uint64_t size = planned_bytes(original_->model, plan);
      const double time =
          (is_device() ? card_time(original_->model, plan) : estimate_time(original_->model, plan, session_.backend(), context)).all();
      fmt::print("{:<24} {:>5g} {:>8.4f} {:>10} {:>8}\n", candidate.label, candidate.options.bits, mean_bits(plan).stored,
                 bytes_text(static_cast<double>(size)), candidate.is_there ? "there" : fmt::format("{:.0f}", time));
      if (!candidate.is_there) bytes += size, seconds += time;
    }
    fmt::print("\nto be made: {} in about {:.0f} s{}\n", bytes_text(static_cast<double>(bytes)), seconds,
               is_device() ? ", by what a card like an H200 took" : "");
    for (const LeftOut& each : left_out_) fmt::print("left out: {}, {:g} bits: {}\n", each.method, each.bits, each.why);
    return {};
  }

  // An interrupted one is continued.
  Status make(const Candidate& candidate) {
    TQ_ASSIGN(const QuantizePlan plan, plan_of(candidate));
    std::error_code ignored;
    if (!fs::exists(candidate.directory + ".partial", ignored)) fs::remove(seconds_path(flags_, candidate), ignored);
    session_.context().listener.note("quantizing " + candidate.directory);
    const auto start = std::chrono::steady_clock::now();
    const auto made = quantize(original_->model, plan, candidate.directory, true,
                               {.main = session_.backend(), .training = session_.training_backend(), .build = "tq " + build_id()},
                               session_.context(), artifact_page(original_->model, plan.options.bits));
    TQ_TRY(add_seconds(flags_, candidate, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()));
    return made ? Status() : Unexpected(made.error());
  }

  Status measure_all() {
    report_.title = "Methods on " + fs::path(flags_.model).filename().string();
    report_.original = report::gather_facts(original_->model);
    if (!wanted_.texts.empty()) report_.protocol = protocol_text(wanted_.options.protocol);
    add_notes();
    std::vector<std::unique_ptr<Loaded>> models;
    const KeptResults results(flags_.output + "/results", "tq " + build_id() + " on " + session_.backend().kind());
    Kept kept{results, {}, {}, source_facts(original_->model)};
    for (const Candidate& candidate : candidates_) {
      TQ_ASSIGN(std::unique_ptr<Loaded> loaded, open(candidate.directory));
      TQ_ASSIGN(const auto record, MappedFile::open(candidate.directory + "/turboquant.json"));
      kept.names.push_back(candidate.name);
      kept.identities.push_back(hex64(hash64(record->bytes())));
      report_.subjects.push_back({.model = report::gather_facts(loaded->model), .texts = {}, .tasks = {}, .method = candidate.label});
      report_.subjects.back().model.name = candidate.title();
      models.push_back(std::move(loaded));
    }
    TQ_ASSIGN(const std::vector<CalibrationText> calibration, read_calibration(candidates_[0].options));
    return measure({models, original_.get(), wanted_, calibration, false, &kept}, session_, report_);
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
                {"left_out", Json::array()}};
    for (size_t i = 0; i < candidates_.size(); ++i) out["artifacts"].push_back(artifact_json(i));
    for (const LeftOut& each : left_out_) out["left_out"].push_back({{"method", each.method}, {"bits", each.bits}, {"why", each.why}});
    return out;
  }

  Status write() const {
    const Json all = json();
    TQ_TRY(write_file(flags_.output + "/report.html", report::page(report_)));
    TQ_TRY(write_file(flags_.output + "/compare.json", json_text(all, 2) + "\n"));
    if (flags_.json) {
      fmt::print("{}\n", json_text(all, 2));
      return {};
    }
    std::vector<ComparedModel> rows;
    for (size_t i = 0; i < candidates_.size(); ++i)
      rows.push_back({&report_.subjects[i], candidates_[i].label, candidates_[i].options.bits, known_seconds(flags_, candidates_[i])});
    fmt::print("{}{}", text_table(rows, report_), task_table(rows, report_));
    for (const std::string& note : report_.notes) fmt::print("{}\n", note);
    fmt::print("report: {0}/report.html, figures: {0}/compare.json\n", flags_.output);
    return {};
  }

  const Flags& flags_;
  const Measurements& wanted_;
  std::vector<Candidate> candidates_;
  std::vector<LeftOut> left_out_;
  Session& session_;
  Trainer trainer_;
  std::unique_ptr<Loaded> original_;
  report::Report report_;
};

Status act(const Flags& flags) {
  TQ_ASSIGN(const Measurements wanted, measurements_of(flags.measure, true));
  if (flags.compute.gpus > 1) return bad_usage("--gpus {}: comparing uses one card", flags.compute.gpus);
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  TQ_ASSIGN(std::vector<Candidate> candidates, candidates_of(flags, trainer_of(session->training_backend())));
  const Status done = Comparison(flags, wanted, std::move(candidates), *session).run();
  if (!done && done.error().code == ErrorCode::kInterrupted)
    return fail(ErrorCode::kInterrupted, "stopped; what is done is kept in {}, the same command goes on", flags.output);
  return done;
}

}  // namespace

Command add_compare(CLI::App& root) {
  CLI::App* app = root.add_subcommand("compare", "Quantize by several methods at several rates and measure all against the original");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->model, "Hugging Face directory or GGUF file")->required();
  app->add_option("-o,--output", flags->output,
                  "Folder for the artifacts, report.html and compare.json; what is there is not made or measured again")
      ->required();
  app->add_option("-b,--bits", flags->bits, "Rates, 2 to 8")->capture_default_str();
  app->add_option("--methods", flags->methods, "all, or some of " + variant_names())->capture_default_str();
  app->add_option("--effort", flags->effort, "fast, normal or best: of turboquant the time, of all the calibration tokens")
      ->capture_default_str();
  for (const auto& [name, value, what] : {std::tuple("--allocate", &flags->allocate, "bits by what they cost"),
                                          {"--calibrate", &flags->calibrate, "blocks tuned while they are rounded"},
                                          {"--tune", &flags->tune, "the rounded model tuned as a whole"}})
    app->add_option(name, *value, fmt::format("Of turboquant: {}, on or off; by default as tq quantize has it", what))
        ->check(CLI::IsMember({"on", "off"}));
  app->add_option("--calibrate-steps", flags->calibrate_steps,
                  "Of turboquant and quip-tuned, after each stage of a block; 0 follows the effort")
      ->check(at_least_zero());
  app->add_option("--tune-steps", flags->tune_steps, "Of turboquant and quip-tuned; 0 follows the effort")->check(at_least_zero());
  app->add_option("--embedding", flags->embedding, "Bits of the embedding, or 'original'")->capture_default_str();
  app->add_option("--head", flags->head, "Bits of the head, or 'original'")->capture_default_str();
  app->add_option("--calibration", flags->calibration, "Text files to calibrate on instead of the built-in text");
  app->add_option("--calibration-tokens", flags->calibration_tokens, "Tokens to calibrate on, the same for all; 0 follows the effort")
      ->check(at_least_zero());
  app->add_option("--quantize-seed", flags->quantize_seed, "Of the signs that turboquant and quip turn matrices by");
  add_measure_flags(*app, flags->measure);
  app->add_flag("--dry-run", flags->dry_run, "Only tell what would be made, its size and time, and what is left out");
  app->add_flag("--json", flags->json, "Print facts as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
