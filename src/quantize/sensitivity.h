// What a change of one linear costs the whole model, from one gradient of the divergence at the quantized model.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "quantize/gradients.h"

namespace tq {

// Of moving 32 rows of a linear from the base model's weights to a candidate's, in nats a token:
// <dKL/dW, D> + 1/2 sum_t,r s_t f_r (x_t D^T)_r^2, D the change, s_t f_r the squared gradients of the base model's own labels at the
// linear's output as a product of tokens and rows (docs/method.md, section 2).
struct MovePrice {
  double first = 0, second = 0;
  double total() const { return first + second; }
};
// By linear and rate: for each range of 32 rows.
using MovePrices = std::map<std::string, std::map<int, std::vector<MovePrice>>>;

struct SensitivityRequest {
  const Model& original;
  const Model& base;                                         // the original with every linear of the layers rounded at the base rate
  std::span<const std::pair<int, const Model*>> candidates;  // by rate, with every linear rounded at it
  std::span<const std::vector<TokenId>> sequences;           // all of equal length
  uint64_t seed = 0;
};
struct Sensitivity {
  MovePrices prices;
  double divergence = 0;  // of the base model from the original, nats a token
};
// Errors: those of training_pass.
Result<Sensitivity> price_moves(Backend& backend, const Context& context, const SensitivityRequest& request);

}  // namespace tq
