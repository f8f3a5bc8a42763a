// What a model loses by each of its linears at each rate, to second order, by one pass back through the quantized model.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "quantize/gradients.h"

namespace tq {

// By linear and rate, of each range of 32 rows, in nats a token: what rounding it to the candidate costs,
// 1/2 sum_t,r s_t f_r (x_t E^T)_r^2, E the candidate less the original, x_t what the linear reads in the standing model, s_t f_r the
// squared gradients of the standing model's own labels at its output as a product of tokens and rows (docs/method.md, section 2).
using RoundingCosts = std::map<std::string, std::map<int, std::vector<double>>>;

struct SensitivityRequest {
  const Model& original;
  const Model& standing;                                     // quantized: whose inputs and curvature count
  std::span<const std::pair<int, const Model*>> candidates;  // by rate, with every linear of the layers rounded at it
  std::span<const std::vector<TokenId>> sequences;           // all of equal length
  uint64_t seed = 0;
  uint64_t wave_bytes = 0;  // of hidden states at a time; 0: what the backend has room for
};
// Errors: those of training_pass.
Result<RoundingCosts> rounding_costs(Backend& backend, const Context& context, const SensitivityRequest& request);

}  // namespace tq
