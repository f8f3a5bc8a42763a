#include "graph/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "graph/uploaded.h"

namespace tq {

std::vector<Routes> route(const Moe& op, const std::vector<float>& scores, int64_t tokens) {
  const int64_t experts = op.router.out;
  std::vector<Routes> routes(static_cast<size_t>(experts));
  std::vector<int64_t> order(static_cast<size_t>(experts));
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = scores.data() + t * experts;
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + op.experts_per_token, order.end(),
                      [&](int64_t a, int64_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
    const double largest = row[order[0]];
    double all = 0, chosen = 0;
    for (int64_t e = 0; e < experts; ++e) all += std::exp(row[e] - largest);
    for (int64_t i = 0; i < op.experts_per_token; ++i) chosen += std::exp(row[order[static_cast<size_t>(i)]] - largest);
    for (int64_t i = 0; i < op.experts_per_token; ++i) {
      const int64_t e = order[static_cast<size_t>(i)];
      const double weight = std::exp(row[e] - largest) / (op.normalize_weights ? chosen : all);
      routes[static_cast<size_t>(e)].token.push_back(static_cast<int32_t>(t));
      routes[static_cast<size_t>(e)].weight.push_back(static_cast<float>(weight));
    }
  }
  return routes;
}

namespace {

enum Slot : size_t { kScores, kTokens, kWeights, kInput, kGate, kUp, kActivated, kResult };

// Where a mixture works: a backend, and slots of a workspace.
struct Room {
  Backend& backend;
  Workspace& workspace;
  size_t first_slot;

  float* floats(Slot slot, int64_t count) const { return workspace.floats(first_slot + slot, count); }
  template <typename T>
  const T* upload(Slot slot, const std::vector<T>& values) const {
    return uploaded(backend, workspace, first_slot + slot, values);
  }
};

void run_expert(const Moe& op, const std::vector<LinearWeight>& expert, int64_t index, const Routes& routes, const Room& room,
                const MixtureArgs& args) {
  Backend& backend = room.backend;
  const auto tokens = static_cast<int64_t>(routes.token.size());
  const int64_t width = op.down.in;
  const int32_t* rows = room.upload(kTokens, routes.token);
  float* input = room.floats(kInput, tokens * args.hidden);
  float* gate = room.floats(kGate, tokens * width);
  float* up = room.floats(kUp, tokens * width);
  float* activated = room.floats(kActivated, tokens * width);
  float* result = room.floats(kResult, tokens * args.hidden);
  backend.gather({.input = args.input, .row = rows, .output = input, .count = tokens, .width = args.hidden});
  if (args.taps) (*args.taps)(op.gate_up[0].tap, input, tokens, args.hidden, index);
  const LinearJob in[] = {expert[0].job(gate), expert[1].job(up)};
  backend.linear({.input = input, .tokens = tokens, .jobs = in, .precision = args.precision});
  backend.gated({.kind = static_cast<GateKind>(op.activation),
                 .gate = gate,
                 .up = up,
                 .output = activated,
                 .tokens = tokens,
                 .width = width,
                 .stride = width});
  if (args.taps) (*args.taps)(op.down.tap, activated, tokens, width, index);
  const LinearJob out = expert[2].job(result);
  backend.linear({.input = activated, .tokens = tokens, .jobs = {&out, 1}, .precision = args.precision});
  backend.scatter_add({.input = result,
                       .row = rows,
                       .weight = room.upload(kWeights, routes.weight),
                       .output = args.output,
                       .count = tokens,
                       .width = args.hidden});
}

}  // namespace

std::vector<int64_t> mixture_floats(const Moe& op, int64_t rows, int64_t hidden) {
  std::vector<int64_t> floats(kResult + 1);
  floats[kScores] = rows * op.router.out;
  floats[kTokens] = floats[kWeights] = rows;
  floats[kInput] = floats[kResult] = rows * hidden;
  floats[kGate] = floats[kUp] = floats[kActivated] = rows * op.down.in;
  return floats;
}

void run_mixture(const Moe& op, const BlockWeights& weights, Backend& backend, const MixtureArgs& args, Workspace& workspace,
                 size_t first_slot) {
  const Room room{backend, workspace, first_slot};
  float* scores = room.floats(kScores, args.tokens * op.router.out);
  if (args.taps) (*args.taps)(op.router.tap, args.input, args.tokens, args.hidden, -1);
  const LinearJob job = weights.linears[0].job(scores);
  backend.linear({.input = args.input, .tokens = args.tokens, .jobs = {&job, 1}, .precision = args.precision});
  std::vector<float> seen(static_cast<size_t>(args.tokens * op.router.out));
  backend.download(seen.data(), scores, seen.size() * sizeof(float));
  const auto routes = route(op, seen, args.tokens);
  backend.zero(args.output, args.tokens * args.hidden);
  for (size_t e = 0; e < routes.size(); ++e)
    if (!routes[e].token.empty()) run_expert(op, weights.experts[e], static_cast<int64_t>(e), routes[e], room, args);
}

}  // namespace tq
