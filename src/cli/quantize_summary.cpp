#include "cli/quantize_summary.h"

#include <algorithm>
#include <cmath>

#include "artifact/inputs.h"
#include "base/counted.h"
#include "base/json_text.h"
#include "cli/quantize_plan.h"

namespace tq::cli {
namespace {

Json calibration_json(const QuantizeSummary& summary) {
  Json blocks = Json::array();
  for (const auto& [step, facts] : summary.calibration)
    blocks.push_back({{"plain", facts.plain}, {"calibrated", facts.calibrated}, {"is_kept", facts.is_kept}});
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
  Json out = {{"chosen", allocation_name(facts.chosen)}, {"target", target_name(target)}};
  if (facts.kl[0] > 0 && target != Target::kNone) out["kl_ties_estimated"] = facts.ties;
  for (size_t kind = 0; kind < kMeasuredAllocations; ++kind)
    if (facts.kl[kind] > 0) out[fmt::format("kl_{}", allocation_name(static_cast<AllocationKind>(kind)))] = facts.kl[kind];
  return out;
}

// What ties cost, as far as it is known.
std::string ties_text(const AllocationFacts& facts, Target target) {
  if (target == Target::kNone) return "";
  const bool is_known = facts.kl[0] > 0;  // bits were chosen by what they cost
  return fmt::format("; tied for {}, which costs {}", target_name(target),
                     is_known ? fmt::format("about {:.4f} of KL (an estimate, by what the rates cost)", facts.ties)
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

}  // namespace

void print_summary(const QuantizeSummary& summary, const QuantizeFlags& flags) {
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
                                      {"tuning", summary.tuning.steps > 0 ? tuning_json(summary.tuning) : Json()},
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
  if (!summary.calibration.empty())
    fmt::print("{}{}\n", calibration_text(summary),
               summary.seconds_calibration > 0 ? fmt::format("; {:.0f} s", summary.seconds_calibration) : "");
  if (const TuneFacts& tuning = summary.tuning; tuning.steps > 0)
    fmt::print("tuning: {:.0f} s, KL on held-out text {:.5f} -> {:.5f} ({} of {} kept)\n", summary.seconds_tuning, tuning.before(),
               tuning.after(), tuning.best_step, counted(tuning.steps, "step"));
  print_times(summary.seconds);
}

}  // namespace tq::cli
