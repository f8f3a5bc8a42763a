#include "cli/quantize_plan.h"

#include <sys/statvfs.h>

#include <algorithm>

#include "base/counted.h"
#include "base/json_text.h"
#include "quantize/allocation_plan.h"
#include "quantize/budget.h"
#include "quantize/calibrate_plan.h"
#include "quantize/estimate.h"
#include "quantize/job.h"
#include "quantize/job_memory.h"
#include "quantize/stage_budgets.h"
#include "quantize/tune.h"

namespace tq::cli {
namespace {

// What `du -b DIRECTORY` adds for the folder itself.
uint64_t folder_entry_bytes(const std::string& output) {
  std::string parent = output.substr(0, output.find_last_not_of('/') + 1);
  const size_t slash = parent.rfind('/');
  parent = slash == std::string::npos ? "." : slash == 0 ? "/" : parent.substr(0, slash);
  struct statvfs status {};
  return statvfs(parent.c_str(), &status) == 0 ? status.f_frsize : 4096;
}

// A size that may be a promise: three digits of a GB are a MB.
std::string size_text(uint64_t bytes) {
  const auto size = static_cast<double>(bytes);
  return bytes < 1'000'000'000 ? bytes_text(size) : fmt::format("{:.3f} GB", 1e-9 * size);
}

// Behind the seconds that rounding takes, which on a card are those of the blocks; rivals have no windows.
std::string windows_text(const QuantizeOptions& options) {
  if (options.method != Method::kTurboquant) return "";
  return fmt::format("; windows of effort {}", effort_name(options.rounding.value_or(options.effort)));
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
         fmt::format("gradients of {} of {} tokens", options.gradient_tokens > 0 ? std::min(options.gradient_tokens, tokens) : tokens,
                     tokens));
  if (uses_allocation(options)) {
    const auto length = static_cast<size_t>(std::min(options.sequence, model.spec.context));
    const AllocationPlan own = allocation_plan(model.spec, options, static_cast<size_t>(tokens) / length);
    const size_t shown = own.length > 0 ? static_cast<size_t>(own.length) : length;
    line("bits", operations.allocation, time.allocation,
         fmt::format("candidates of {} to {} bits from {} tokens, what they cost on {}{}", own.rates.front(), own.rates.back(),
                     own.candidates * length, own.priced * shown, own.repricings > 0 ? ", once more in the moved model" : ""));
  }
  if (uses_calibration(options)) {
    const CalibrationBudget budget = calibration_budget(options, count_weights(model.spec).linears);
    line("blocks", operations.calibration, time.calibration,
         fmt::format("{} of {} of {} after each of a layer's stages; {}{}", counted(budget.steps, "step"),
                     counted(budget.sequences, "sequence"),
                     counted(budget.tokens > 0 ? budget.tokens : std::min(plan.options.sequence, model.spec.context), "token"),
                     counted(tokens, "token"), time.rounding > 0 ? "" : windows_text(options)));
  }
  if (uses_tuning(options)) {
    const TuneSettings settings = tune_settings(options, model.spec.context);
    line("tuning", operations.tuning, time.tuning,
         fmt::format("{} of {} of {}", counted(settings.steps, "step"), counted(settings.batch, "sequence"),
                     counted(settings.length, "token")));
  }
}

}  // namespace

std::string rates_text(const std::vector<std::vector<TensorPlan>>& layers) {
  constexpr const char* kNames[] = {"q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down"};
  std::map<size_t, std::pair<double, double>> sums;
  for (const auto& layer : layers)
    for (const TensorPlan& tensor : layer) {
      const auto role = static_cast<size_t>(tensor.linear.role);
      if (role >= std::size(kNames)) continue;
      const double weights = weights_of(tensor.linear);
      sums[role].first += mean_rate(tensor) * weights, sums[role].second += weights;
    }
  std::string out;
  for (const auto& [role, sum] : sums) out += fmt::format("{}{} {:.2f}", out.empty() ? "" : ", ", kNames[role], sum.first / sum.second);
  return out;
}

void warn_of_size(const Model& model, const QuantizePlan& plan, Listener& listener) {
  const uint64_t most = most_bytes(model, plan);
  if (model.file_bytes == 0 || most < model.file_bytes) return;  // 0: shapes alone
  listener.warn(fmt::format("{}: its weights take {}, the result {}{}; fewer bits make it smaller, for head and embedding too",
                            model.source, bytes_text(static_cast<double>(model.file_bytes)), uses_allocation(plan.options) ? "up to " : "",
                            bytes_text(static_cast<double>(most))));
}

void print_plan(const Model& model, const QuantizePlan& plan, const QuantizeFlags& flags, Session& session) {
  const int threads = session.threads().size();
  const uint64_t bytes = planned_bytes(model, plan), most = most_bytes(model, plan), entry = folder_entry_bytes(flags.output);
  const MeanBits bits = mean_bits(plan);
  const WeightCounts counts = count_weights(model.spec);
  const StageOperations operations = stage_operations(model.spec, plan.options);
  const bool is_card = !session.backend().is_host();
  const TimeEstimate time = is_card ? card_time(model, plan) : estimate_time(model, plan, session.backend(), session.context());
  const std::string where =
      is_card ? "on a card like an H200, by what a model of 0.5 G weights took" : "with " + counted(threads, "thread");
  const uint64_t memory = planned_memory(model, plan, threads);
  if (flags.json) {
    fmt::print("{}\n", json_text(Json{{"bytes", bytes},
                                      {"bytes_at_most", most},
                                      {"folder_entry_bytes", entry},
                                      {"bits_linears", bits.code},
                                      {"bits_linears_stored", bits.stored},
                                      {"bits_all", 8.0 * static_cast<double>(bytes) / static_cast<double>(counts.all)},
                                      {"memory_bytes", memory},
                                      {"calibration_tokens", calibration_tokens(plan.options)},
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
  if (uses_allocation(plan.options)) {
    fmt::print(
        "  size     at most {} bytes ({}), {} ({}) if all linears had equal bits; with the folder's entry, as du -b counts on ext4: {}\n",
        most, size_text(most), bytes, size_text(bytes), most + entry);
  } else {
    fmt::print("  size     {} bytes ({}); with the folder's entry, as du -b counts on ext4: {}\n", bytes, size_text(bytes), bytes + entry);
  }
  fmt::print("  bits     {:.4f} a weight of the linears, {:.4f} stored, {:.3f} of all weights\n", bits.code, bits.stored,
             8.0 * static_cast<double>(bytes) / static_cast<double>(counts.all));
  fmt::print("  rates    {}{}\n", rates_text(plan.layers),
             uses_allocation(plan.options) ? ", before they are chosen by what they cost" : "");
  fmt::print("  memory   about {} beyond the mapped source\n", bytes_text(static_cast<double>(memory)));
  fmt::print("  time     about {:.0f} s {}: {:.0f} s of statistics of {}, {:.0f} s of rounding{}{}\n", time.all(), where, time.statistics,
             counted(calibration_tokens(plan.options), "token"), time.rounding, time.rounding > 0 ? windows_text(plan.options) : "",
             time.all() > time.statistics + time.rounding ? "; and" : "");
  print_stages(model, plan, time);
}

}  // namespace tq::cli
