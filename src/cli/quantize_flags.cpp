#include "cli/quantize_flags.h"

#include <CLI/CLI.hpp>

#include "base/json.h"
#include "cli/goes_with.h"
#include "cli/number_checks.h"
#include "cli/units.h"

namespace tq::cli {
namespace {

// {"model.layers.0.mlp.down_proj": 4, …}; "*" stands for all others. has_target: whether a flag says that of them.
Status read_rates(const std::string& path, bool has_target, QuantizeOptions& options) {
  TQ_ASSIGN(const Json file, read_json_file(path));
  if (!file.is_object()) return bad_input("{}: an object of linears and their bits was expected", path);
  if (has_target && file.contains("*"))
    return bad_usage("{}: '*' and --bits, --size or --fit say both how small the other linears are; leave one of them out", path);
  if (!has_target && !file.contains("*"))
    return bad_usage("{}: it has no '*', the bits of the linears that it does not name; add it, or give --bits, --size or --fit", path);
  for (const auto& [name, bits] : file.items()) {
    if (!bits.is_number()) return bad_input("{}: the bits of {} are no number", path, name);
    (name == "*" ? options.bits : options.rates[name]) = bits.get<double>();
  }
  return {};
}

// The source, where the result goes, and how small it is.
void add_size_flags(CLI::App& app, QuantizeFlags& flags) {
  app.add_option("model", flags.model, "Hugging Face directory or GGUF file")->required();
  app.add_option("-o,--output", flags.output, "Directory to write")->required();
  app.add_option("-b,--bits", flags.bits, "Mean bits a weight of the linears, 2 to 8; fractions are fine");
  app.add_option("--size", flags.size, "Instead of --bits: the most that the finished directory may take, such as 35GB");
  app.add_option("--fit", flags.fit,
                 "Instead of --bits: memory that running it may take, files, keys and values together; with --backend cuda, of a card");
  app.add_option("--context", flags.context, "With --fit: tokens of a sequence; not given: 4096, or the model's own if that is less");
  app.add_option("--batch", flags.batch, "With --fit: sequences at once")->capture_default_str()->check(CLI::Range(1, 4096));
  app.add_option("--rates", flags.rates,
                 "JSON file with the bits of linears by name, 1 to 8; '*' for the others, unless --bits, --size or --fit is given")
      ->check(CLI::ExistingFile);
  app.add_option("--allocate", flags.allocate,
                 "on or off: choose the linears' bits by what they cost the model; not given: on for best, and for normal on a GPU")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option(
      "--target", flags.target,
      "What it shall be exported to later: gguf (one rate a tensor), vllm or sglang (one rate for q, k and v, for gate and up, for "
      "all experts of a layer); ties the rates and says what that costs");
}

// How it is rounded.
void add_method_flags(CLI::App& app, QuantizeFlags& flags) {
  app.add_option("--method", flags.method, "turboquant, or one to compare with: rtn, gptq, awq, quip")->capture_default_str();
  app.add_option("--group", flags.group, "Columns that share a scale with rtn, gptq and awq; 0: a whole row")->capture_default_str();
  app.add_option("--act-order", flags.act_order, "Columns by falling diagonal of the Hessian: on (gptq's own way) or off (turboquant's)")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--damping", flags.damping,
                 "Added to the Hessian's diagonal, relative to its mean; by default 0.01 for the rivals, more for turboquant, by bits")
      ->check(number_in(1e-6, 1));
  app.add_option("--passes", flags.passes, "Times that every column is rounded again, given all others")
      ->capture_default_str()
      ->check(CLI::Range(0, 10));
  app.add_option("--effort", flags.effort, "fast, normal or best")->capture_default_str();
  app.add_option(
      "--rounding", flags.rounding,
      "fast, normal or best: round by that effort's windows; not given: by those of --effort, beside --calibrate on processors longer "
      "ones");
  app.add_option("--embedding", flags.embedding,
                 "Bits of the embedding, or 'original' (16 bits where the source has it quantized); a tied one follows --head")
      ->capture_default_str();
  app.add_option("--head", flags.head, "Bits of the head, or 'original' (16 bits where the source has it quantized)")
      ->capture_default_str();
}

// What is measured, and the gradients that weight it.
void add_text_flags(CLI::App& app, QuantizeFlags& flags) {
  app.add_option("--calibration", flags.calibration, "Text files to measure on instead of the built-in text");
  app.add_option("--calibration-tokens", flags.calibration_tokens, "Tokens to measure on; 0 follows effort and model")
      ->check(at_least_zero());
  app.add_option("--gradients", flags.gradients, "on or off: weight the tokens by what the loss feels at each linear; not given: off")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--gradient-tokens", flags.gradient_tokens,
                 "Of the tokens to measure on, those that gradients weight; 0 follows effort and model")
      ->check(at_least_zero());
}

// The calibration of blocks, and the text that bits are chosen by.
void add_block_flags(CLI::App& app, QuantizeFlags& flags) {
  app.add_option(
         "--calibrate", flags.calibrate,
         "on or off: round the layers one after another, tuning what is not rounded yet; not given: on for best, and for normal on a GPU")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--allocate-tokens", flags.allocate_tokens,
                 "Tokens that bits are chosen by, in short sequences; 0 follows effort and model")
      ->check(at_least_zero());
  app.add_option("--calibrate-steps", flags.calibrate_steps, "Steps after each stage of a layer; 0 follows effort and model")
      ->check(CLI::Range(0, 100000));
  app.add_option("--calibrate-sequences", flags.calibrate_sequences, "Sequences of a step; 0 follows effort and model")
      ->check(CLI::Range(0, 100000));
  app.add_option("--calibrate-tokens", flags.calibrate_tokens, "Tokens of a sequence in a step, from its front; 0 follows the effort")
      ->check(at_least_zero());
  app.add_option("--calibrate-weight-rate", flags.calibrate_weight_rate,
                 "Learning rate of weights not rounded yet, relative to their size; 0: left alone; negative: by effort")
      ->check(number_in(-1, 0.5));
  app.add_option("--calibrate-vector-rate", flags.calibrate_vector_rate,
                 "Learning rate of row scales, norms and biases, relative to their size; negative: by effort")
      ->check(number_in(-1, 0.5));
}

// The tuning at the end.
void add_tune_flags(CLI::App& app, QuantizeFlags& flags) {
  app.add_option(
         "--tune", flags.tune,
         "on or off: after rounding, move scales, norms and biases towards the original; not given: on for best, and for normal on a GPU")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--tune-steps", flags.tune_steps, "Steps of the tuning; 0 follows effort and model")->check(CLI::Range(0, 100000));
  app.add_option("--tune-rate", flags.tune_rate, "Highest relative change in a step of the tuning; 0: by the KL that it begins with")
      ->check(number_in(0, 1));
}

}  // namespace

Result<QuantizeOptions> options_of(const QuantizeFlags& flags) {
  QuantizeOptions options;
  if (flags.bits) options.bits = *flags.bits;
  const int targets = flags.bits.has_value() + !flags.size.empty() + !flags.fit.empty();
  if (targets > 1) return bad_usage("give one of --bits, --size and --fit");
  if (targets == 0 && flags.rates.empty()) return bad_usage("how small? Give --bits 3, --size 35GB, --fit 24GB or --rates FILE");
  if (!flags.target.empty()) {
    const std::optional<Target> target = target_from_name(flags.target);
    if (!target) return bad_usage("--target {}: give gguf, vllm or sglang", flags.target);
    options.target = *target;
  }
  if (!flags.rates.empty()) TQ_TRY(read_rates(flags.rates, targets > 0, options));
  if (!flags.rates.empty() && flags.allocate == "on") return bad_usage("--allocate on goes without --rates");
  if (!flags.allocate.empty()) options.allocate = flags.allocate == "on";
  if (!flags.rates.empty()) options.allocate = false;
  if (!flags.tune.empty()) options.tune = flags.tune == "on";
  options.tune_steps = flags.tune_steps;
  options.tune_rate = flags.tune_rate;
  const std::optional<Effort> effort = effort_from_name(flags.effort);
  if (!effort) return bad_usage("--effort {}: give fast, normal or best", flags.effort);
  options.effort = *effort;
  if (!flags.rounding.empty()) {
    options.rounding = effort_from_name(flags.rounding);
    if (!options.rounding) return bad_usage("--rounding {}: give fast, normal or best", flags.rounding);
  }
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

Status check_together(const CLI::App& app, const QuantizeOptions& options) {
  const Method method = options.method;
  const bool has_groups = method == Method::kRtn || method == Method::kGptq || method == Method::kAwq;
  TQ_TRY(goes_with(app, {"--group"}, "--method rtn, gptq or awq", has_groups));
  TQ_TRY(goes_with(app, {"--act-order"}, "--method turboquant or gptq", method == Method::kTurboquant || method == Method::kGptq));
  TQ_TRY(goes_with(app, {"--context", "--batch"}, "--fit", app.count("--fit") > 0));
  return {};
}

Status check_stages(const CLI::App& app, const QuantizeOptions& options) {
  TQ_TRY(goes_with(app, {"--gradient-tokens"}, "--gradients on", uses_gradients(options)));
  TQ_TRY(goes_with(app, {"--allocate-tokens"}, "--allocate on", uses_allocation(options)));
  TQ_TRY(goes_with(
      app, {"--calibrate-steps", "--calibrate-sequences", "--calibrate-tokens", "--calibrate-weight-rate", "--calibrate-vector-rate"},
      "--calibrate on", uses_calibration(options)));
  return goes_with(app, {"--tune-steps", "--tune-rate"}, "--tune on", uses_tuning(options));
}

// In the order that --help shows them.
void add_quantize_flags(CLI::App& app, QuantizeFlags& flags) {
  add_size_flags(app, flags);
  add_method_flags(app, flags);
  add_text_flags(app, flags);
  add_block_flags(app, flags);
  add_tune_flags(app, flags);
  app.add_option("--seed", flags.seed, "Of the random rotation")->check(seed_number());
  app.add_flag("--dry-run", flags.dry_run, "Print size, memory and time; write nothing");
  app.add_flag("--resume", flags.resume, "Continue an interrupted run");
  app.add_flag("--json", flags.json, "Print facts as JSON");
  add_compute_flags(app, flags.compute);
}

}  // namespace tq::cli
