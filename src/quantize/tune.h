// End-to-end tuning: what is continuous in a rounded model (graph/tunable.h) is moved so that its next-token distribution comes closer to
// the original's, KL(original || rounded) on calibration text, by Adam.
#pragma once

#include <memory>

#include "base/context.h"
#include "graph/tunable.h"
#include "kernels/backend.h"
#include "quantize/adam.h"
#include "quantize/options.h"
#include "quantize/tuning_text.h"

namespace tq {

struct TuneSettings {
  int64_t steps = 0;
  int64_t batch = 2;     // sequences a step
  int64_t length = 512;  // tokens of a sequence
  int64_t measures = 8;  // parts of the steps; after each, the held-out text is measured and the state can be saved
  int64_t held_out = 0;  // sequences of held-out text that are expected, for estimates
  double rate = 0;       // the highest rate of the coordinates (TunableVector), a relative change; 0: usual_tuning_rate
  uint64_t seed = 0;

  int64_t step_of(int64_t measure) const { return steps * measure / measures; }  // measures [0, measures]
};
// By the KL of the untuned model. Adam's steps are as long as their rate whatever the loss, so that a model that is nearly right bears
// shorter ones only: a model with KL .34 gained most at 3e-3, one with .023 got worse at 1e-3 and better at 2e-4.
double usual_tuning_rate(double divergence);
TuneSettings tune_settings(const QuantizeOptions& options, int64_t context);
// Whether the rounded model stays in the backend's memory as floats; of larger ones a layer at a time is decoded, twice a step.
bool stays_decoded(const ModelSpec& spec, bool is_host);
// Upper estimate of the host's memory that tuning takes beyond the mapped files, in bytes.
uint64_t tuning_memory(const ModelSpec& spec, const TuneSettings& settings);

// KL on the held-out sequences in nats a token, of the model as it would be stored.
struct TunePoint {
  int64_t step = 0;
  std::vector<double> domain;  // of each domain
  double mean() const;
};

struct TuneState {
  std::vector<float> theta;  // coordinates
  Adam adam;
  std::vector<double> losses;       // KL of the batch of every step, nats a token
  std::vector<TunePoint> held_out;  // at step_of(0), step_of(1), …
  std::vector<float> best;          // theta of the best point; all zeros, the untuned model, at first
  int64_t best_step = 0;

  int64_t step() const { return adam.steps; }
};

// Whether a point may be kept: its mean is below `best`, and no domain is worse than untuned by more than 2 %.
bool is_better(const TunePoint& point, const TunePoint& untuned, double best);

// Advances one state.
class Tuner {
 public:
  // Models, text, backend and context must outlive it. Errors: a tensor that the backend cannot multiply.
  struct Request {
    const Model& original;
    const Model& rounded;
    const TuningText& text;  // with held-out sequences
    const TuneSettings& settings;
  };
  static Result<Tuner> create(const Request& request, Backend& backend, const Context& context);
  Tuner(Tuner&&) noexcept;
  ~Tuner();

  const Tunables& tunables() const;
  TuneState start() const;
  bool is_done(const TuneState& state) const;
  // Measures the state if it is not yet, else makes the steps up to the next measurement. The same results on any number of threads, and
  // from a state that was stored and read again. Errors: those of training_pass.
  Status advance(TuneState& state);

 private:
  class Run;
  explicit Tuner(std::unique_ptr<Run> run);
  std::unique_ptr<Run> run_;
};

}  // namespace tq
