#include <algorithm>
#include <map>

#include <CLI/CLI.hpp>

#include "cli/artifact_page.h"
#include "cli/build_id.h"
#include "cli/command.h"
#include "cli/quantize_flags.h"
#include "cli/quantize_plan.h"
#include "cli/quantize_summary.h"
#include "cli/units.h"
#include "convert/import.h"
#include "quantize/budget.h"
#include "quantize/calibration.h"
#include "quantize/job.h"
#include "quantize/job_folder.h"
#include "quantize/origin.h"
#include "quantize/stage_budgets.h"

namespace tq::cli {
namespace {

// A plan needs shapes alone, so a config.json is enough for one.
bool is_shapes(const QuantizeFlags& flags) { return flags.dry_run && flags.model.ends_with(".json"); }

Result<Model> read_model(const QuantizeFlags& flags) {
  if (!is_shapes(flags)) return load_model(flags.model);
  TQ_ASSIGN(const Json config, read_json_file(flags.model));
  return shapes_of(config, flags.model);
}

// What follows from options: the stages, their budgets, and of the tokens to measure on as many as there are.
class Completing {
 public:
  // has_texts: false where there are only shapes, which read no text.
  Completing(const Model& model, Trainer trainer, bool has_texts) : model_(model), trainer_(trainer), has_texts_(has_texts) {}

  Result<QuantizeOptions> operator()(QuantizeOptions options) {
    options = with_stage_budgets(model_.spec, with_usual_stages(std::move(options), trainer_), trainer_);
    if (!has_texts_) return options;
    const int64_t asked = calibration_tokens(options);
    if (!at_hand_.contains(asked)) {
      TQ_ASSIGN(at_hand_[asked], tokens_at_hand(model_, options));
    }
    options.calibration_tokens = at_hand_.at(asked);
    return options;
  }

 private:
  const Model& model_;
  const Trainer trainer_;
  const bool has_texts_;
  std::map<int64_t, int64_t> at_hand_;  // by what is asked for
};

// With --fit.
Result<RunningMemory> running_memory(const ModelSpec& spec, const QuantizeFlags& flags) {
  RunningMemory running{.batch = flags.batch};
  TQ_ASSIGN(running.memory, parse_bytes(flags.fit, "--fit"));
  running.context = std::min(running.context, spec.context);
  if (flags.context.empty()) return running;
  TQ_ASSIGN(running.context, parse_tokens(flags.context, "--context"));
  if (running.context > spec.context) return bad_usage("--context {}: the model was made for {} tokens", flags.context, spec.context);
  return running;
}

// The bits that meet --size or --fit.
Result<QuantizeOptions> with_budget(const Model& model, const QuantizeFlags& flags, QuantizeOptions options, const Completion& complete) {
  if (!flags.size.empty()) {
    TQ_ASSIGN(const uint64_t bytes, parse_bytes(flags.size, "--size"));
    return fit_bits(model, std::move(options), bytes, complete);
  }
  if (flags.fit.empty()) return options;
  TQ_ASSIGN(const RunningMemory running, running_memory(model.spec, flags));
  return flags.compute.backend == "cuda" ? fit_card(model, std::move(options), running, complete)
                                         : fit_memory(model, std::move(options), running, complete);
}

Status act(const QuantizeFlags& flags, const CLI::App& app) {
  TQ_ASSIGN(const QuantizeOptions wanted, options_of(flags));
  TQ_TRY(check_together(app, wanted));
  TQ_ASSIGN(const Model model, read_model(flags));
  TQ_TRY(check_output(flags.output, flags.resume));
  if (flags.compute.gpus > 1) return bad_usage("--gpus {}: quantizing uses one card", flags.compute.gpus);
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  Completing complete(model, trainer_of(session->backend()), !is_shapes(flags));
  TQ_ASSIGN(QuantizeOptions options, with_budget(model, flags, wanted, [&](QuantizeOptions each) { return complete(std::move(each)); }));
  TQ_ASSIGN(options, complete(std::move(options)));
  TQ_TRY(check_stages(app, options));
  warn_of_quantized_source(model, session->context().listener);
  TQ_ASSIGN(const QuantizePlan plan, make_plan(model, options));
  warn_of_size(model, plan, session->context().listener);
  if (flags.dry_run) {
    warn_of_one_text(options, session->context().listener);
    print_plan(model, plan, flags, *session);
    return {};
  }
  const QuantizeOutput output{.directory = flags.output, .resume = flags.resume, .report = artifact_page(model, plan.options.bits)};
  auto result = quantize(model, plan, output, {.backend = session->backend(), .build = "tq " + build_id()}, session->context());
  if (!result && result.error().code == ErrorCode::kInterrupted)
    return fail(ErrorCode::kInterrupted, "stopped; the same command with --resume continues");
  if (!result) return Unexpected(result.error());
  print_summary(*result, flags);
  return {};
}

}  // namespace

Command add_quantize(CLI::App& root) {
  CLI::App* app = root.add_subcommand("quantize", "Make a model smaller");
  auto flags = std::make_shared<QuantizeFlags>();
  add_quantize_flags(*app, *flags);
  return {app, [flags, app] { return act(*flags, *app); }};
}

}  // namespace tq::cli
