// What `tq compare` is asked for, and which artifacts that are.
#pragma once

#include <string>
#include <vector>

#include "cli/measure.h"
#include "cli/variants.h"
#include "quantize/stage_budgets.h"

namespace tq::cli {

struct CompareFlags {
  std::string model, output, bits = "2,3,4", methods = "all", effort = "normal", embedding = "original", head = "original";
  std::string allocate, calibrate, tune;
  std::vector<std::string> calibration;
  int64_t calibration_tokens = 0, calibrate_steps = 0, tune_steps = 0;
  uint64_t quantize_seed = 0;
  MeasureFlags measure;
  bool json = false, dry_run = false;
  ComputeFlags compute;
};
void add_compare_flags(CLI::App& app, CompareFlags& flags);

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

// By method and rate. Errors: kUsage for values that are none.
Result<std::vector<Candidate>> candidates_of(const CompareFlags& flags, Trainer trainer);
// Errors: kUsage for a flag of a stage that none of the candidates has.
Status check_stages(const CLI::App& app, const std::vector<Candidate>& candidates);

}  // namespace tq::cli
