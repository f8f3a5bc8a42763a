// Mixture of experts: route, run each expert on its tokens, add up.
#pragma once

#include "graph/forward.h"

namespace tq {

// The tokens of one expert, ascending, and what its answer counts for each.
struct Routes {
  std::vector<int32_t> token;
  std::vector<float> weight;
};
// By expert: softmax over the experts of scores [T, E], the best few of each token; ties go to the lower expert.
std::vector<Routes> route(const Moe& op, const std::vector<float>& scores, int64_t tokens);

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
// What those slots have for up to `rows` tokens.
std::vector<int64_t> mixture_floats(const Moe& op, int64_t rows, int64_t hidden);

}  // namespace tq
