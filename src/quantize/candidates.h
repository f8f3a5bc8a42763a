// Every linear rounded at several rates with short windows: what tells allocation the costs of rates.
#pragma once

#include <map>

#include "quantize/gradients.h"
#include "quantize/job_folder.h"

namespace tq {

struct CandidateRequest {
  const Model& model;
  const QuantizePlan& plan;
  std::span<const int> rates;
  std::span<const std::vector<TokenId>> sequences;  // calibration
  const TokenWeights* weights = nullptr;            // of their tokens, or null
};

// A layer's tensors, once for each rate, and the step that holds them.
std::vector<TensorPlan> candidate_tensors(const std::vector<TensorPlan>& layer, std::span<const int> rates);
std::string candidates_step(size_t layer);

// By rate: the model with every planned linear of the layers rounded at it. A step of the folder a layer. Errors: those of files;
// kInterrupted.
using Candidates = std::map<int, Model>;
Result<Candidates> candidate_steps(const CandidateRequest& request, Backend& backend, const Context& context, JobFolder& folder);

}  // namespace tq
