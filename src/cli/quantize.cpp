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
#include "quantize/stage_budgets.h"

namespace tq::cli {
namespace {

// The bits that meet --size or --fit.
Result<QuantizeOptions> with_budget(const Model& model, const QuantizeFlags& flags, QuantizeOptions options) {
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

// A plan needs shapes alone, so a config.json is enough for one.
Result<Model> read_model(const QuantizeFlags& flags) {
  if (!flags.dry_run || !flags.model.ends_with(".json")) return load_model(flags.model);
  TQ_ASSIGN(const Json config, read_json_file(flags.model));
  return shapes_of(config, flags.model);
}

Status act(const QuantizeFlags& flags) {
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
  auto flags = std::make_shared<QuantizeFlags>();
  add_quantize_flags(*app, *flags);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
