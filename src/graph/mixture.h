// Mixture of experts: route, run each expert on its tokens, add up.
#pragma once

#include "graph/forward.h"

namespace tq {

struct MixtureArgs {
  const float* input = nullptr;  // [T, H]
  float* output = nullptr;       // [T, H]
  int64_t tokens = 0, hidden = 0;
  Precision precision = Precision::kInt8;
  const TapSink* taps = nullptr;
};
// Takes the slots of the workspace from `first_slot` on. Routes on the host, so it waits for the scores.
void run_mixture(const Moe& op, const BlockWeights& weights, Backend& backend, const MixtureArgs& args, Workspace& workspace,
                 size_t first_slot);

}  // namespace tq
