// The quantization job: statistics and rounding layer by layer, resumable, then one artifact.
#pragma once

#include <string>

#include "base/context.h"
#include "kernels/backend.h"
#include "quantize/assemble.h"
#include "quantize/tune_steps.h"

namespace tq {

// Facts: of all steps.
struct QuantizeSummary : StepFacts {
  uint64_t files_bytes = 0;  // of everything in the directory
  MeanBits bits;
  std::vector<std::vector<TensorPlan>> layers;  // with the rates that were chosen
  AllocationFacts allocation;
  Target target = Target::kNone;  // that ties the rates
  TuneFacts tuning;
  double seconds_gradients = 0, seconds_allocation = 0, seconds_statistics = 0, seconds_rounding = 0, seconds_tuning = 0;
  double seconds_calibration = 0;         // of the blocks, with their statistics and rounding
  std::map<std::string, double> seconds;  // of all parts, by path (base/stage_times.h)
};

// Where the work is done, on a backend that has training(), and by which program: what another one began is not continued.
struct QuantizeMaker {
  Backend& backend;
  std::string build;
};

// What the bytes of steps depend on beside the job: the build, the backend, and the host's instruction set, which rounds what a card does
// not.
std::string maker_of(const QuantizeMaker& maker);

// Where the artifact goes. Work is kept in DIRECTORY.partial.
struct QuantizeOutput {
  std::string directory;  // must not exist
  bool resume = false;    // what an interrupted run finished in DIRECTORY.partial is taken over
  ReportOf report = {};   // with plan.options.report, and only then
};

// Writes the artifact. To be resumed, work must be of the same source and options, by the same build on the same kind of processor; the
// bytes are the same either way. Errors: kUsage when the directory exists or the partial one is another job's, kInterrupted on
// context.stop, those of files.
Result<QuantizeSummary> quantize(const Model& model, const QuantizePlan& plan, const QuantizeOutput& output, const QuantizeMaker& maker,
                                 const Context& context);

}  // namespace tq
