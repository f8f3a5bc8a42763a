// What `tq quantize` is asked for.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "quantize/options.h"

namespace tq::cli {

struct QuantizeFlags {
  std::string model, output, method = "turboquant", effort = "normal", rounding, embedding = "6", head = "6", gradients, act_order,
                             allocate, tune, rates, size, fit, context, target;
  std::vector<std::string> calibration;
  std::optional<double> bits;
  double damping = 0;
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
void add_quantize_flags(CLI::App& app, QuantizeFlags& flags);

// Errors: kUsage for values that are none and flags that don't go together, those of the file of rates.
Result<QuantizeOptions> options_of(const QuantizeFlags& flags);

// Errors: kUsage for a flag that says nothing without another one, by both names; the second for those of stages that are off.
Status check_together(const CLI::App& app, const QuantizeOptions& options);
Status check_stages(const CLI::App& app, const QuantizeOptions& options);

}  // namespace tq::cli
