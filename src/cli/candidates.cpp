#include "cli/candidates.h"

#include <algorithm>

#include <CLI/CLI.hpp>

#include "cli/comma_list.h"
#include "cli/goes_with.h"
#include "cli/number_checks.h"
#include "cli/units.h"

namespace tq::cli {
namespace {

Result<std::vector<double>> bits_of(const std::string& list) {
  std::vector<double> out;
  for (const std::string& text : split_at_commas(list)) {
    char* rest = nullptr;
    const double bits = std::strtod(text.c_str(), &rest);
    if (text.empty() || *rest != '\0' || !(bits >= 2 && bits <= 8))
      return bad_usage("--bits {}: give numbers from 2 to 8, like 2,3,4", list);
    if (std::find(out.begin(), out.end(), bits) == out.end()) out.push_back(bits);
  }
  return out;
}

// What all methods have alike.
Result<QuantizeOptions> common_options(const CompareFlags& flags) {
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

QuantizeOptions options_of(QuantizeOptions options, const Variant& variant, const CompareFlags& flags, Trainer trainer) {
  options.method = variant.method;
  if (!variant.has_groups) options.group = 0;
  if (variant.method == Method::kTurboquant)
    for (const auto& [flag, stage] :
         {std::pair(&flags.allocate, &options.allocate), {&flags.calibrate, &options.calibrate}, {&flags.tune, &options.tune}})
      if (!flag->empty()) *stage = *flag == "on";
  if (variant.is_tuned) options.calibrate = options.tune = true;
  return with_usual_stages(options, trainer);
}

}  // namespace

Result<std::vector<Candidate>> candidates_of(const CompareFlags& flags, Trainer trainer) {
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

Status check_stages(const CLI::App& app, const std::vector<Candidate>& candidates) {
  const auto any = [&](bool (*uses)(const QuantizeOptions&)) {
    return std::any_of(candidates.begin(), candidates.end(), [&](const Candidate& each) { return uses(each.options); });
  };
  const bool has_own =
      std::any_of(candidates.begin(), candidates.end(), [](const Candidate& each) { return each.options.method == Method::kTurboquant; });
  TQ_TRY(goes_with(app, {"--allocate", "--calibrate", "--tune"}, "turboquant among the --methods", has_own));
  TQ_TRY(goes_with(app, {"--calibrate-steps"}, "--calibrate on, or quip-tuned among the --methods", any(uses_calibration)));
  return goes_with(app, {"--tune-steps"}, "--tune on, or quip-tuned among the --methods", any(uses_tuning));
}

void add_compare_flags(CLI::App& app, CompareFlags& flags) {
  app.add_option("model", flags.model, "Hugging Face directory or GGUF file")->required();
  app.add_option("-o,--output", flags.output,
                 "Folder for the artifacts, report.html and compare.json; what is there is not made or measured again")
      ->required();
  app.add_option("-b,--bits", flags.bits, "Rates, 2 to 8")->capture_default_str();
  app.add_option("--methods", flags.methods, "all, or some of " + variant_names())->capture_default_str();
  app.add_option("--effort", flags.effort, "fast, normal or best: of turboquant the time, of all the calibration tokens")
      ->capture_default_str();
  for (const auto& [name, value, what] : {std::tuple("--allocate", &flags.allocate, "bits by what they cost"),
                                          {"--calibrate", &flags.calibrate, "blocks tuned while they are rounded"},
                                          {"--tune", &flags.tune, "the rounded model tuned as a whole"}})
    app.add_option(name, *value, fmt::format("Of turboquant: {}, on or off; by default as tq quantize has it", what))
        ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--calibrate-steps", flags.calibrate_steps,
                 "Of turboquant and quip-tuned, after each stage of a block; 0 follows the effort")
      ->check(CLI::Range(0, 100000));
  app.add_option("--tune-steps", flags.tune_steps, "Of turboquant and quip-tuned; 0 follows the effort")->check(CLI::Range(0, 100000));
  app.add_option("--embedding", flags.embedding, "Bits of the embedding, or 'original' (16 bits where a source has it quantized)")
      ->capture_default_str();
  app.add_option("--head", flags.head, "Bits of the head, or 'original' (16 bits where a source has it quantized)")->capture_default_str();
  app.add_option("--calibration", flags.calibration, "Text files to calibrate on instead of the built-in text");
  app.add_option("--calibration-tokens", flags.calibration_tokens, "Tokens to calibrate on, the same for all; 0 follows the effort")
      ->check(at_least_zero());
  app.add_option("--quantize-seed", flags.quantize_seed, "Of the signs that turboquant and quip turn matrices by")->check(seed_number());
  add_measure_flags(app, flags.measure);
  app.add_flag("--dry-run", flags.dry_run, "Only tell what would be made, its size and time, and what is left out");
  app.add_flag("--json", flags.json, "Print facts as JSON");
  add_compute_flags(app, flags.compute);
}

}  // namespace tq::cli
