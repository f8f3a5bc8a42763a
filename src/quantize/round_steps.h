// Rounds the matrices of several steps of the job at once, so that all threads have work.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "artifact/inputs.h"
#include "artifact/model.h"
#include "base/context.h"
#include "quantize/plan.h"
#include "quantize/round.h"
#include "quantize/statistics.h"

namespace tq {

// A step of the job: the linears of a layer, or head and embedding; and what was measured of their inputs.
struct PendingStep {
  std::string name;
  const std::vector<TensorPlan>* tensors = nullptr;
  Statistics statistics;
  std::vector<Fold> folds = {};
  std::map<std::string, const float*> stored =
      {};  // linears' weights [R, C] in the backend's memory, by name, instead of the model's: of those rounded there
};

// A finished tensor; of a stack, all experts together.
struct RoundedTensor {
  std::vector<RoundedPart> parts;
  Loss loss;  // experts count by their tokens
};

struct RoundedStep {
  std::vector<RoundedTensor> tensors;                 // as in the plan
  std::map<std::string, std::vector<uint8_t>> signs;  // by tap point
  std::map<std::string, std::string> experts;         // by tap point of a mixture, a letter an expert (artifact/inputs.h)
  std::map<std::string, InputFacts> inputs;           // by tap point, but for those of mixtures and the embedding
  std::map<std::string, std::vector<float>> changed;  // plain arrays that folds changed, by name
};

// Whether the backend's device rounds the tensor. Mixtures, with a factor an expert, stay on the host, and what the device's loop has no
// word for.
bool is_rounded_on_device(const QuantizePlan& plan, const TensorPlan& tensor, Backend& backend);

// On the backend's device as far as it rounds (Backend::quantizer), else on the threads. Empties the statistics. Errors: kInterrupted;
// kBadInput for weights that are no finite numbers.
Result<std::vector<RoundedStep>> round_steps(const Model& model, const QuantizePlan& plan, std::vector<PendingStep>& steps,
                                             Backend& backend, const Context& context);

}  // namespace tq
