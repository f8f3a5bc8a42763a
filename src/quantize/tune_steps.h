// The tuning as a step of a job: its state is kept at every measurement, its result is a step of its own.
#pragma once

#include "quantize/job_folder.h"
#include "quantize/tune.h"

namespace tq {

// How the tuning went. Divergences in nats a token.
struct TuneFacts {
  int64_t steps = 0, best_step = 0;  // 0: the untuned values were kept
  std::vector<double> losses;        // of the batch of each step
  std::vector<std::string> domains;
  std::vector<TunePoint> held_out;

  double before() const { return held_out.empty() ? 0.0 : held_out.front().mean(); }
  double after() const;  // of what was kept
};

struct TuneStepRequest {
  const Model& original;
  const Model& rounded;
  const TuningText& text;
  const TuneSettings& settings;
};
// The step that has the vectors: row scales, norms and biases by the names they have in an artifact.
constexpr const char* kTuneStep = "tuning";

// Tunes the rounded model, unless that is done. Errors: those of Tuner and of files.
Status tune_steps(const TuneStepRequest& request, Backend& backend, const Context& context, JobFolder& folder);
Result<TuneFacts> load_tuning(const JobFolder& folder);

}  // namespace tq
