#include "base/json_text.h"
#include "quantize/estimate.h"
#include "quantize/job.h"
#include "quantize/job_memory.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <cmath>

#include <CLI/CLI.hpp>

#include "base/mapped_file.h"
#include "cli/artifact_page.h"
#include "cli/at_least_zero.h"
#include "cli/build_id.h"
#include "cli/command.h"
#include "cli/units.h"
#include "convert/import.h"
#include "quantize/allocation_plan.h"
#include "quantize/budget.h"
#include "quantize/calibrate_plan.h"
#include "quantize/calibration.h"
#include "quantize/stage_budgets.h"

namespace tq::cli {
namespace {

struct Flags {
  std::string model, output, method = "turboquant", effort = "normal", embedding = "6", head = "6", gradients, act_order, allocate, tune,
                             rates, size, fit, context = "4096", target;
  std::vector<std::string> calibration;
  double bits = 0, damping = 0;
  int passes = QuantizeOptions().passes;
  int64_t batch = 1, calibration_tokens = 0, gradient_tokens = 0, allocate_tokens = 0, calibrate_tokens = 0,
          group = QuantizeOptions().group;
  uint64_t seed = 0;
  std::string calibrate;
  int64_t calibrate_steps = 0, calibrate_sequences = 0;
  double calibrate_weight_rate = QuantizeOptions().calibrate_weight_rate, calibrate_vector_rate = QuantizeOptions().calibrate_vector_rate;
  int64_t tune_steps = 0;
  double tune_rate = 0;
  bool dry_run = false, resume = false, json = false;
  ComputeFlags compute;
};

// {"model.layers.0.mlp.down_proj": 4, …}; "*" stands for all others, unless --bits does.
Status read_rates(const std::string& path, QuantizeOptions& options) {
  TQ_ASSIGN(const Json file, read_json_file(path));
  if (!file.is_object()) return bad_input("{}: an object of linears and their bits was expected", path);
  for (const auto& [name, bits] : file.items()) {
    if (!bits.is_number()) return bad_input("{}: the bits of {} are no number", path, name);
    if (name == "*") options.bits = bits.get<double>();
    else options.rates[name] = bits.get<double>();
  }
  return {};
}

Result<QuantizeOptions> options_of(const Flags& flags) {
  QuantizeOptions options;
  if (flags.bits > 0) options.bits = flags.bits;
  const int targets = (flags.bits > 0) + !flags.size.empty() + !flags.fit.empty();
  if (targets > 1) return bad_usage("give one of --bits, --size and --fit");
  if (targets == 0 && flags.rates.empty()) return bad_usage("how small? Give --bits 3, --size 35GB, --fit 24GB or --rates FILE");
  if (!flags.target.empty()) {
    const std::optional<Target> target = target_from_name(flags.target);
    if (!target) return bad_usage("--target {}: give gguf, vllm or sglang", flags.target);
    options.target = *target;
  }
  if (!flags.rates.empty()) TQ_TRY(read_rates(flags.rates, options));
  if (!flags.allocate.empty()) options.allocate = flags.allocate == "on";
  if (!flags.tune.empty()) options.tune = flags.tune == "on";
  options.tune_steps = flags.tune_steps;
  options.tune_rate = flags.tune_rate;
  const std::optional<Effort> effort = effort_from_name(flags.effort);
  if (!effort) return bad_usage("--effort {}: give fast, normal or best", flags.effort);
  options.effort = *effort;
  const std::optional<Method> method = method_from_name(flags.method);
  if (!method) return bad_usage("--method {}: give turboquant, rtn, gptq, awq or quip", flags.method);
  options.method = *method;
  options.group = flags.group;
  if (!flags.act_order.empty()) options.act_order = flags.act_order == "on";
  if (flags.damping > 0) options.damping = flags.damping;
  options.passes = flags.passes;
  TQ_ASSIGN(options.embedding_bits, table_bits(flags.embedding, "--embedding"));
  TQ_ASSIGN(options.head_bits, table_bits(flags.head, "--head"));
  if (!flags.gradients.empty()) options.gradients = flags.gradients == "on";
  if (!flags.calibrate.empty()) options.calibrate = flags.calibrate == "on";
  options.calibrate_steps = flags.calibrate_steps, options.calibrate_sequences = flags.calibrate_sequences;
  options.calibrate_tokens = flags.calibrate_tokens, options.allocate_tokens = flags.allocate_tokens;
  options.calibrate_weight_rate = flags.calibrate_weight_rate, options.calibrate_vector_rate = flags.calibrate_vector_rate;
  options.calibration = flags.calibration;
  options.calibration_tokens = flags.calibration_tokens, options.gradient_tokens = flags.gradient_tokens;
  options.seed = flags.seed;
  options.report = true;
  return options;
}

// What `du -b DIRECTORY` adds for the folder itself.
uint64_t folder_entry_bytes(const std::string& output) {
  std::string parent = output.substr(0, output.find_last_not_of('/') + 1);
  const size_t slash = parent.rfind('/');
  parent = slash == std::string::npos ? "." : slash == 0 ? "/" : parent.substr(0, slash);
  struct statvfs status {};
  return statvfs(parent.c_str(), &status) == 0 ? status.f_frsize : 4096;
}

// The bits that meet --size or --fit.
Result<QuantizeOptions> with_budget(const Model& model, const Flags& flags, QuantizeOptions options) {
  if (!flags.size.empty()) {
    TQ_ASSIGN(const uint64_t bytes, parse_bytes(flags.size, "--size"));
    return fit_bits(model, std::move(options), bytes);
  }
  if (flags.fit.empty()) return options;
  RunningMemory running{.batch = flags.batch};
  TQ_ASSIGN(running.memory, parse_bytes(flags.fit, "--fit"));
  TQ_ASSIGN(running.context, parse_tokens(flags.context, "--context"));
  return flags.compute.backend == "cuda" ? fit_card(model, std::move(options), running) : fit_memory(model, std::move(options), running);
}

// Mean bits of each kind of linear.
std::string rates_text(const std::vector<std::vector<TensorPlan>>& layers) {
  constexpr const char* kNames[] = {"q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down"};
  std::map<size_t, std::pair<double, double>> sums;
  for (const auto& layer : layers)
    for (const TensorPlan& tensor : layer) {
      const auto role = static_cast<size_t>(tensor.linear.role);
      if (role >= std::size(kNames)) continue;
      const double weights = static_cast<double>(tensor.linear.in) * static_cast<double>(tensor.linear.out);
      sums[role].first += mean_rate(tensor) * weights, sums[role].second += weights;
    }
  std::string out;
  for (const auto& [role, sum] : sums) out += fmt::format("{}{} {:.2f}", out.empty() ? "" : ", ", kNames[role], sum.first / sum.second);
  return out;
}

// Every stage of the method with what its budget came to.
void print_stages(const Model& model, const QuantizePlan& plan, const TimeEstimate& time) {
  const QuantizeOptions& options = plan.options;
  const StageOperations operations = stage_operations(model.spec, options);
  const auto line = [](std::string_view stage, double multiply_adds, double seconds, const std::string& of) {
    fmt::print("  {:8} about {:.0f} s, {:.3g} T multiply-adds: {}\n", stage, seconds, multiply_adds * 1e-12, of);
  };
  const int64_t tokens = calibration_tokens(options);
  if (uses_gradients(options))
    line("weights", operations.gradients, time.gradients,
         fmt::format("gradients of {} of {} tokens", options.gradient_tokens > 0 ? options.gradient_tokens : tokens, tokens));
  if (uses_allocation(options)) {
    const auto length = static_cast<size_t>(std::min(options.sequence, model.spec.context));
    const AllocationPlan own = allocation_plan(model.spec, options, static_cast<size_t>(tokens) / length);
    const size_t shown = own.length > 0 ? static_cast<size_t>(own.length) : length;
    line("bits", operations.allocation, time.allocation,
         fmt::format("candidates of {} to {} bits from {} tokens, prices on {}, up to {} demotions measured by {}, on {} each{}",
                     own.rates.front(), own.rates.back(), own.candidates * length, own.priced * shown, own.tried, own.together,
                     own.trial_sequences * shown, own.repricings > 0 ? ", prices again in the moved model" : ""));
  }
  if (uses_calibration(options)) {
    const CalibrationBudget budget = calibration_budget(options, count_weights(model.spec).linears);
    line("blocks", operations.calibration, time.calibration,
         fmt::format("{} steps of {} sequences of {} tokens after each of a layer's stages; {} tokens", budget.steps, budget.sequences,
                     budget.tokens > 0 ? budget.tokens : std::min(plan.options.sequence, model.spec.context), tokens));
  }
  if (uses_tuning(options)) {
    const TuneSettings settings = tune_settings(options, model.spec.context);
    line("tuning", operations.tuning, time.tuning,
         fmt::format("{} steps of {} sequences of {} tokens", settings.steps, settings.batch, settings.length));
  }
}

void print_plan(const Model& model, const QuantizePlan& plan, const Flags& flags, Session& session) {
  const int threads = session.threads().size();
  const uint64_t bytes = planned_bytes(model, plan), entry = folder_entry_bytes(flags.output);
  const MeanBits bits = mean_bits(plan);
  const WeightCounts counts = count_weights(model.spec);
  const StageOperations operations = stage_operations(model.spec, plan.options);
  const bool is_card = !session.training_backend().is_host();
  const TimeEstimate time = is_card ? card_time(model, plan) : estimate_time(model, plan, session.backend(), session.context());
  const std::string where =
      is_card ? "on a card like an H200, by what a model of 0.5 G weights took" : fmt::format("with {} threads", threads);
  const uint64_t memory = planned_memory(model, plan, threads);
  if (flags.json) {
    fmt::print("{}\n", json_text(Json{{"bytes", bytes},
                                      {"folder_entry_bytes", entry},
                                      {"bits_linears", bits.code},
                                      {"bits_linears_stored", bits.stored},
                                      {"bits_all", 8.0 * static_cast<double>(bytes) / static_cast<double>(counts.all)},
                                      {"memory_bytes", memory},
                                      {"operations_gradients", operations.gradients},
                                      {"operations_allocation", operations.allocation},
                                      {"operations_calibration", operations.calibration},
                                      {"operations_tuning", operations.tuning},
                                      {"seconds_gradients", time.gradients},
                                      {"seconds_allocation", time.allocation},
                                      {"seconds_statistics", time.statistics},
                                      {"seconds_rounding", time.rounding},
                                      {"seconds_calibration", time.calibration},
                                      {"seconds_tuning", time.tuning},
                                      {"seconds", time.all()},
                                      {"seconds_of", where}},
                                 2));
    return;
  }
  fmt::print("{} -> {}\n", describe(model), flags.output);
  const std::string size =
      bytes < 1'000'000'000 ? bytes_text(static_cast<double>(bytes)) : fmt::format("{:.3f} GB", 1e-9 * static_cast<double>(bytes));
  fmt::print("  size     {} bytes ({}); with the folder's entry, as du -b counts: {}\n", bytes, size, bytes + entry);
  fmt::print("  bits     {:.4f} a weight of the linears, {:.4f} stored, {:.3f} of all weights\n", bits.code, bits.stored,
             8.0 * static_cast<double>(bytes) / static_cast<double>(counts.all));
  fmt::print("  rates    {}{}\n", rates_text(plan.layers),
             uses_allocation(plan.options) ? ", before they are chosen by what they cost" : "");
  fmt::print("  memory   about {} beyond the mapped source\n", bytes_text(static_cast<double>(memory)));
  fmt::print("  time     about {:.0f} s {}: {:.0f} s of statistics, {:.0f} s of rounding{}\n", time.all(), where, time.statistics,
             time.rounding, time.all() > time.statistics + time.rounding ? ", and" : "");
  print_stages(model, plan, time);
}

Json calibration_json(const QuantizeSummary& summary) {
  Json blocks = Json::array();
  for (const auto& [step, facts] : summary.calibration) blocks.push_back({{"plain", facts.plain}, {"calibrated", facts.calibrated}});
  return blocks;
}

// Those that are not as usual.
Json inputs_json(const QuantizeSummary& summary) {
  Json inputs = Json::object();
  for (const auto& [tap, input] : summary.inputs)
    if (!input.is_usual()) inputs[tap] = {{"under", std::string(1, input.under)}, {"dead", input.dead}};
  return inputs;
}

// How many blocks kept it, and the geometric mean of what it left of their errors.
std::string calibration_text(const QuantizeSummary& summary) {
  int64_t kept = 0, all = 0;
  double logarithm = 0;
  for (const auto& [step, facts] : summary.calibration) {
    if (facts.plain == 0) continue;
    ++all, kept += facts.is_kept;
    logarithm += facts.is_kept ? std::log(facts.calibrated / facts.plain) : 0.0;
  }
  if (all == 0) return "blocks: none could be calibrated";
  return fmt::format("blocks: {} of {} keep their calibration, which takes their error on held-out text to {:.1f} %", kept, all,
                     100.0 * std::exp(logarithm / static_cast<double>(all)));
}

Json tuning_json(const TuneFacts& tuning) {
  Json held_out = Json::array();
  for (const TunePoint& point : tuning.held_out) {
    Json domains = Json::object();
    for (size_t i = 0; i < point.domain.size(); ++i) domains[tuning.domains[i]] = point.domain[i];
    held_out.push_back({{"step", point.step}, {"kl", point.mean()}, {"kl_by_text", domains}});
  }
  return {{"steps", tuning.steps}, {"kept_step", tuning.best_step}, {"loss_by_step", tuning.losses}, {"held_out", held_out}};
}

Json allocation_json(const AllocationFacts& facts, Target target) {
  Json out = {{"chosen", allocation_name(facts.chosen)}, {"target", target_name(target)}, {"kl_ties_estimated", facts.ties}};
  for (size_t kind = 0; kind < kMeasuredAllocations; ++kind)
    out[fmt::format("kl_{}", allocation_name(static_cast<AllocationKind>(kind)))] = facts.kl[kind];
  return out;
}

// What ties cost, as far as it is known.
std::string ties_text(const AllocationFacts& facts, Target target) {
  if (target == Target::kNone) return "";
  const bool is_known = facts.kl[0] > 0;  // bits were chosen by what they cost
  return fmt::format("; tied for {}, which costs {}", target_name(target),
                     is_known ? fmt::format("about {:.4f} of KL (an estimate, by the prices of moves)", facts.ties)
                              : std::string("an unknown amount of KL: it is estimated with --allocate on"));
}

// The parts of a run that took a noticeable time, each below the one that contains it.
void print_times(const std::map<std::string, double>& seconds) {
  constexpr double kLeastSeconds = 0.5;
  fmt::print("seconds:\n");
  for (const auto& [path, taken] : seconds) {
    if (taken < kLeastSeconds) continue;
    const auto depth = static_cast<size_t>(std::count(path.begin(), path.end(), '/'));
    fmt::print("  {:{}}{:{}} {:8.1f}\n", "", 2 * depth, path.substr(path.rfind('/') + 1), 24 - 2 * depth, taken);
  }
}

void print_summary(const QuantizeSummary& summary, const Flags& flags) {
  if (flags.json) {
    Json rates = Json::object();
    for (const auto& layer : summary.layers)
      for (const TensorPlan& tensor : layer) rates[tensor.linear.name] = mean_rate(tensor);
    Json errors = Json::object();
    for (const auto& [name, error] : summary.errors) errors[name] = error;
    fmt::print("{}\n", json_text(Json{{"bytes", summary.files_bytes},
                                      {"bits_linears", summary.bits.code},
                                      {"bits_linears_stored", summary.bits.stored},
                                      {"seconds_gradients", summary.seconds_gradients},
                                      {"seconds_allocation", summary.seconds_allocation},
                                      {"rates", rates},
                                      {"allocation", allocation_json(summary.allocation, summary.target)},
                                      {"tuning", tuning_json(summary.tuning)},
                                      {"seconds_tuning", summary.seconds_tuning},
                                      {"seconds_statistics", summary.seconds_statistics},
                                      {"seconds_rounding", summary.seconds_rounding},
                                      {"seconds_calibration", summary.seconds_calibration},
                                      {"seconds", summary.seconds},
                                      {"calibration", calibration_json(summary)},
                                      {"relative_error", errors},
                                      {"inputs", inputs_json(summary)},
                                      {"experts", summary.experts}},
                                 2));
    return;
  }
  for (const auto& [tap, letters] : summary.experts)
    if (const std::string text = described_experts(letters); !text.empty()) fmt::print("{}: {}\n", tap, text);
  for (const auto& [tap, input] : summary.inputs)
    if (!input.is_usual()) fmt::print("{}: {}\n", tap, input.described());
  std::string times;
  for (const auto& [stage, seconds] : {std::pair{"gradients", summary.seconds_gradients},
                                       {"allocation", summary.seconds_allocation},
                                       {"statistics", summary.seconds_statistics},
                                       {"rounding", summary.seconds_rounding}})
    if (seconds > 0) times += fmt::format("{}{:.0f} s of {}", times.empty() ? "; " : ", ", seconds, stage);
  fmt::print("{}: {}, {:.3f} bits a weight of the linears{}\n", flags.output, bytes_text(static_cast<double>(summary.files_bytes)),
             summary.bits.stored, times);
  fmt::print("rates ({}): {}{}\n", allocation_name(summary.allocation.chosen), rates_text(summary.layers),
             ties_text(summary.allocation, summary.target));
  if (!summary.calibration.empty()) fmt::print("{}; {:.0f} s\n", calibration_text(summary), summary.seconds_calibration);
  if (const TuneFacts& tuning = summary.tuning; tuning.steps > 0)
    fmt::print("tuning: {:.0f} s, KL on held-out text {:.5f} -> {:.5f} ({} of {} steps kept)\n", summary.seconds_tuning, tuning.before(),
               tuning.after(), tuning.best_step, tuning.steps);
  print_times(summary.seconds);
}

// A plan needs shapes alone, so a config.json is enough for one.
Result<Model> read_model(const Flags& flags) {
  if (!flags.dry_run || !flags.model.ends_with(".json")) return load_model(flags.model);
  TQ_ASSIGN(const Json config, read_json_file(flags.model));
  return shapes_of(config, flags.model);
}

Status act(const Flags& flags) {
  TQ_ASSIGN(const QuantizeOptions wanted, options_of(flags));
  TQ_ASSIGN(const Model model, read_model(flags));
  TQ_ASSIGN(QuantizeOptions options, with_budget(model, flags, wanted));
  if (flags.compute.gpus > 1) return bad_usage("--gpus {}: quantizing uses one card", flags.compute.gpus);
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  if (!session->backend().training()) {
    if (options.allocate.value_or(false))
      return bad_usage("--allocate on: the backend {} computes no gradients; use --backend cpu", session->backend().name());
    options.allocate = false;
  }
  const Trainer trainer = trainer_of(session->training_backend());
  options = with_stage_budgets(model.spec, with_usual_stages(std::move(options), trainer), trainer);
  TQ_ASSIGN(const QuantizePlan plan, make_plan(model, options));
  if (flags.dry_run) {
    warn_of_one_text(options, session->context().listener);
    print_plan(model, plan, flags, *session);
    return {};
  }
  auto result = quantize(model, plan, flags.output, flags.resume,
                         {.main = session->backend(), .training = session->training_backend(), .build = "tq " + build_id()},
                         session->context(), artifact_page(model, plan.options.bits));
  if (!result && result.error().code == ErrorCode::kInterrupted)
    return fail(ErrorCode::kInterrupted, "stopped; the same command with --resume continues");
  if (!result) return Unexpected(result.error());
  print_summary(*result, flags);
  return {};
}

}  // namespace

Command add_quantize(CLI::App& root) {
  CLI::App* app = root.add_subcommand("quantize", "Make a model smaller");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->model, "Hugging Face directory or GGUF file")->required();
  app->add_option("-o,--output", flags->output, "Directory to write")->required();
  app->add_option("-b,--bits", flags->bits, "Mean bits a weight of the linears, 2 to 8; fractions are fine");
  app->add_option("--size", flags->size, "Instead of --bits: the most that the finished directory may take, such as 35GB");
  app->add_option("--fit", flags->fit,
                  "Instead of --bits: memory that running it may take, files, keys and values together; with --backend cuda, of a card");
  app->add_option("--context", flags->context, "With --fit: tokens of a sequence")->capture_default_str();
  app->add_option("--batch", flags->batch, "With --fit: sequences at once")->capture_default_str()->check(CLI::Range(1, 4096));
  app->add_option("--rates", flags->rates, "JSON file with the bits of linears by name; '*' for the others")->check(CLI::ExistingFile);
  app->add_option("--allocate", flags->allocate,
                  "on or off: choose the linears' bits by what they cost the model; on at effort best, and at normal on a GPU")
      ->check(CLI::IsMember({"on", "off"}));
  app->add_option(
      "--target", flags->target,
      "What it shall be exported to later: gguf (one rate a tensor), vllm or sglang (one rate for q, k and v, for gate and up, for "
      "all experts of a layer); ties the rates and says what that costs");
  app->add_option("--method", flags->method, "turboquant, or one to compare with: rtn, gptq, awq, quip")->capture_default_str();
  app->add_option("--group", flags->group, "Columns that share a scale with rtn, gptq and awq; 0: a whole row")->capture_default_str();
  app->add_option("--act-order", flags->act_order, "Columns by falling diagonal of the Hessian: on (gptq's own way) or off (turboquant's)")
      ->check(CLI::IsMember({"on", "off"}));
  app->add_option("--damping", flags->damping,
                  "Added to the Hessian's diagonal, relative to its mean; by default 0.01 for the rivals, more for turboquant, by bits")
      ->check(CLI::Range(1e-6, 1.0));
  app->add_option("--passes", flags->passes, "Times that every column is rounded again, given all others")
      ->capture_default_str()
      ->check(CLI::Range(0, 10));
  app->add_option("--effort", flags->effort, "fast, normal or best")->capture_default_str();
  app->add_option("--embedding", flags->embedding, "Bits of the embedding, or 'original'; a tied one follows --head")
      ->capture_default_str();
  app->add_option("--head", flags->head, "Bits of the head, or 'original'")->capture_default_str();
  app->add_option("--calibration", flags->calibration, "Text files to measure on instead of the built-in text");
  app->add_option("--calibration-tokens", flags->calibration_tokens, "Tokens to measure on; 0 follows effort and model")
      ->check(at_least_zero());
  app->add_option("--gradients", flags->gradients, "on or off: weight the tokens by what the loss feels at each linear; not given: off")
      ->check(CLI::IsMember({"on", "off"}));
  app->add_option("--gradient-tokens", flags->gradient_tokens,
                  "Of the tokens to measure on, those that gradients weight; 0 follows effort and model")
      ->check(at_least_zero());
  app->add_option(
         "--calibrate", flags->calibrate,
         "on or off: round the layers one after another, tuning what is not rounded yet; not given: on for best, and for normal on a GPU")
      ->check(CLI::IsMember({"on", "off"}));
  app->add_option("--allocate-tokens", flags->allocate_tokens,
                  "Tokens that bits are chosen by, in short sequences; 0 follows effort and model")
      ->check(at_least_zero());
  app->add_option("--calibrate-steps", flags->calibrate_steps, "Steps after each stage of a layer; 0 follows effort and model")
      ->check(CLI::Range(0, 100000));
  app->add_option("--calibrate-sequences", flags->calibrate_sequences, "Sequences of a step; 0 follows effort and model")
      ->check(CLI::Range(0, 100000));
  app->add_option("--calibrate-tokens", flags->calibrate_tokens, "Tokens of a sequence in a step, from its front; 0 follows the effort")
      ->check(at_least_zero());
  app->add_option("--calibrate-weight-rate", flags->calibrate_weight_rate,
                  "Learning rate of weights not rounded yet, relative to their size; 0: left alone; negative: by effort");
  app->add_option("--calibrate-vector-rate", flags->calibrate_vector_rate,
                  "Learning rate of row scales, norms and biases, relative to their size; negative: by effort");
  app->add_option(
         "--tune", flags->tune,
         "on or off: after rounding, move scales, norms and biases towards the original; not given: on for best, and for normal on a GPU")
      ->check(CLI::IsMember({"on", "off"}));
  app->add_option("--tune-steps", flags->tune_steps, "Steps of the tuning; 0 follows effort and model")->check(CLI::Range(0, 100000));
  app->add_option("--tune-rate", flags->tune_rate, "Highest relative change in a step of the tuning; 0: by the KL that it begins with")
      ->check(CLI::Range(0.0, 1.0));
  app->add_option("--seed", flags->seed, "Of the random rotation");
  app->add_flag("--dry-run", flags->dry_run, "Print size, memory and time; write nothing");
  app->add_flag("--resume", flags->resume, "Continue an interrupted run");
  app->add_flag("--json", flags->json, "Print facts as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
