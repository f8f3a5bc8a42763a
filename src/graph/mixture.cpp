#include "graph/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tq {
namespace {

struct Route {
  int64_t token;
  float weight;
};

// Softmax over the experts, the best few of each token; ties go to the lower expert.
std::vector<std::vector<Route>> route(const Moe& op, const std::vector<float>& scores, int64_t tokens) {
  const int64_t experts = op.router.out;
  std::vector<std::vector<Route>> routes(static_cast<size_t>(experts));
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
      routes[static_cast<size_t>(e)].push_back({t, static_cast<float>(weight)});
    }
  }
  return routes;
}

void run_expert(const Moe& op, const std::vector<LinearWeight>& expert, int64_t index, const std::vector<Route>& routes, Backend& backend,
                const MixtureArgs& args) {
  const auto tokens = static_cast<int64_t>(routes.size());
  const int64_t width = op.down.in;
  std::vector<float> input(static_cast<size_t>(tokens * args.hidden)), result(input.size());
  std::vector<float> gate(static_cast<size_t>(tokens * width)), up(gate.size()), activated(gate.size());
  for (int64_t i = 0; i < tokens; ++i)
    std::copy_n(args.input + routes[static_cast<size_t>(i)].token * args.hidden, args.hidden, input.data() + i * args.hidden);
  if (args.taps) (*args.taps)(op.gate_up[0].tap, input.data(), tokens, args.hidden, index);
  const LinearJob in[] = {expert[0].job(gate.data()), expert[1].job(up.data())};
  backend.linear({.input = input.data(), .tokens = tokens, .jobs = in, .precision = args.precision});
  backend.gated({.kind = static_cast<GateKind>(op.activation),
                 .gate = gate.data(),
                 .up = up.data(),
                 .output = activated.data(),
                 .tokens = tokens,
                 .width = width,
                 .stride = width});
  if (args.taps) (*args.taps)(op.down.tap, activated.data(), tokens, width, index);
  const LinearJob out = expert[2].job(result.data());
  backend.linear({.input = activated.data(), .tokens = tokens, .jobs = {&out, 1}, .precision = args.precision});
  for (int64_t i = 0; i < tokens; ++i) {
    const auto [token, weight] = routes[static_cast<size_t>(i)];
    for (int64_t k = 0; k < args.hidden; ++k)
      args.output[token * args.hidden + k] += weight * result[static_cast<size_t>(i * args.hidden + k)];
  }
}

}  // namespace

void run_mixture(const Moe& op, const BlockWeights& weights, Backend& backend, const MixtureArgs& args) {
  std::vector<float> scores(static_cast<size_t>(args.tokens * op.router.out));
  if (args.taps) (*args.taps)(op.router.tap, args.input, args.tokens, args.hidden, -1);
  const LinearJob job = weights.linears[0].job(scores.data());
  backend.linear({.input = args.input, .tokens = args.tokens, .jobs = {&job, 1}, .precision = args.precision});
  const auto routes = route(op, scores, args.tokens);
  std::fill_n(args.output, args.tokens * args.hidden, 0.0f);
  for (size_t e = 0; e < routes.size(); ++e)
    if (!routes[e].empty()) run_expert(op, weights.experts[e], static_cast<int64_t>(e), routes[e], backend, args);
}

}  // namespace tq
