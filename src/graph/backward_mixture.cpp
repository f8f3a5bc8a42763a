#include <algorithm>
#include <cmath>

#include "graph/backward_block.h"

namespace tq {
namespace {

void forward_expert(BackwardStep& step, const Moe& op, const std::vector<LinearWeight>& weights, const float* normed, const Routes& routes,
                    Slots& expert) {
  const auto tokens = static_cast<int64_t>(routes.token.size());
  const int64_t hidden = op.down.out, width = op.down.in;
  float* input = expert.floats(trace_slot::kExpertInput, tokens * hidden);
  float* gate = expert.floats(trace_slot::kGateUp, tokens * 2 * width);
  float* activated = expert.floats(trace_slot::kActivated, tokens * width);
  for (int64_t i = 0; i < tokens; ++i) std::copy_n(normed + routes.token[static_cast<size_t>(i)] * hidden, hidden, input + i * hidden);
  const LinearJob in[] = {weights[0].job(gate), weights[1].job(gate + tokens * width)};
  step.backend.linear({.input = input, .tokens = tokens, .jobs = in, .precision = Precision::kFloat});
  step.backend.gated({.kind = static_cast<GateKind>(op.activation),
                      .gate = gate,
                      .up = gate + tokens * width,
                      .output = activated,
                      .tokens = tokens,
                      .width = width,
                      .stride = width});
  const LinearJob out = weights[2].job(expert.floats(trace_slot::kExpertResult, tokens * hidden));
  step.backend.linear({.input = activated, .tokens = tokens, .jobs = {&out, 1}, .precision = Precision::kFloat});
}

// One linear of an expert: reported, and its input's gradient.
struct ExpertLinear {
  const Linear& linear;
  const LinearWeight& weight;
  int64_t index;
  const float* input;
  const float* gradient;
  float* input_gradient;
  bool accumulate = false;
};

void expert_linear_back(BackwardStep& step, const Routes& routes, const ExpertLinear& args) {
  const auto tokens = static_cast<int64_t>(routes.token.size());
  step.report({.linear = args.linear,
               .expert = args.index,
               .input = args.input,
               .gradient = args.gradient,
               .tokens = tokens,
               .positions = routes.token});
  step.training.linear({.matrix = args.weight.matrix.get(),
                        .gradient = args.gradient,
                        .input_gradient = args.input_gradient,
                        .tokens = tokens,
                        .accumulate = args.accumulate});
}

// gradient[n, H] of the expert's own outputs -> input_gradient[n, H]
void backward_expert(BackwardStep& step, const Moe& op, const BlockBack& args, int64_t index, const float* gradient,
                     float* input_gradient) {
  Slots& expert = args.trace.experts[static_cast<size_t>(index)];
  const Routes& routes = args.trace.routes[static_cast<size_t>(index)];
  const auto& weights = args.weights.experts[static_cast<size_t>(index)];
  const auto tokens = static_cast<int64_t>(routes.token.size());
  const int64_t width = op.down.in, up = tokens * width;
  const float* gate = expert.floats(trace_slot::kGateUp, 2 * up);
  const float* input = expert.floats(trace_slot::kExpertInput, tokens * op.down.out);
  float* activated_gradient = args.shared.floats(shared_slot::kActivatedGradient, up);
  float* gate_gradient = args.shared.floats(shared_slot::kGateUpGradient, 2 * up);
  expert_linear_back(step, routes, {op.down, weights[2], index, expert.floats(trace_slot::kActivated, up), gradient, activated_gradient});
  step.training.gated({.kind = static_cast<GateKind>(op.activation),
                       .gate = gate,
                       .up = gate + up,
                       .gradient = activated_gradient,
                       .gate_gradient = gate_gradient,
                       .up_gradient = gate_gradient + up,
                       .tokens = tokens,
                       .width = width,
                       .stride = width});
  expert_linear_back(step, routes, {op.gate_up[0], weights[0], index, input, gate_gradient, input_gradient});
  expert_linear_back(step, routes, {op.gate_up[1], weights[1], index, input, gate_gradient + up, input_gradient, true});
}

std::pair<int64_t, float> route_at(const Routes& routes, size_t i) { return {routes.token[i], routes.weight[i]}; }

// Gradients by the chosen experts' weights [T, E] (0 elsewhere) become those by the router's scores. With weights w = softmax over all
// experts (p), of which the chosen count as they are: ds_e = p_e (dw_e - sum over chosen of p dw), dw_e = 0 for those not chosen; with
// weights normalised over the chosen: the same within them, and 0 elsewhere.
void router_back(const Moe& op, const float* scores, const std::vector<Routes>& routes, int64_t tokens, float* gradient) {
  const int64_t experts = op.router.out;
  std::vector<double> sum(static_cast<size_t>(tokens));
  for (int64_t e = 0; e < experts; ++e)
    for (size_t i = 0; i < routes[static_cast<size_t>(e)].token.size(); ++i) {
      const auto [token, weight] = route_at(routes[static_cast<size_t>(e)], i);
      sum[static_cast<size_t>(token)] += static_cast<double>(weight) * gradient[token * experts + e];
    }
  if (op.normalize_weights) {
    for (int64_t e = 0; e < experts; ++e)
      for (size_t i = 0; i < routes[static_cast<size_t>(e)].token.size(); ++i) {
        const auto [token, weight] = route_at(routes[static_cast<size_t>(e)], i);
        float& out = gradient[token * experts + e];
        out = static_cast<float>(weight * (out - sum[static_cast<size_t>(token)]));
      }
    return;
  }
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = scores + t * experts;
    const double largest = *std::max_element(row, row + experts);
    double all = 0;
    for (int64_t e = 0; e < experts; ++e) all += std::exp(row[e] - largest);
    for (int64_t e = 0; e < experts; ++e) {
      float& out = gradient[t * experts + e];
      out = static_cast<float>(std::exp(row[e] - largest) / all * (out - sum[static_cast<size_t>(t)]));
    }
  }
}

}  // namespace

void forward_block(BackwardStep& step, const Moe& op, const BlockWeights& weights, const float* normed, float* result,
                   BackwardWorkspace::BlockTrace& trace) {
  const int64_t hidden = op.down.out, experts = op.router.out;
  std::vector<float> scores(static_cast<size_t>(step.tokens * experts));
  const LinearJob job = weights.linears[0].job(scores.data());
  step.backend.linear({.input = normed, .tokens = step.tokens, .jobs = {&job, 1}, .precision = Precision::kFloat});
  std::copy(scores.begin(), scores.end(), trace.values.floats(trace_slot::kScores, step.tokens * experts));
  trace.routes = route(op, scores, step.tokens);
  trace.experts.resize(static_cast<size_t>(experts));
  std::fill_n(result, step.tokens * hidden, 0.0f);
  for (size_t e = 0; e < trace.routes.size(); ++e) {
    const Routes& routes = trace.routes[e];
    if (routes.token.empty()) continue;
    forward_expert(step, op, weights.experts[e], normed, routes, trace.experts[e]);
    const float* from = trace.experts[e].floats(trace_slot::kExpertResult, static_cast<int64_t>(routes.token.size()) * hidden);
    for (size_t i = 0; i < routes.token.size(); ++i) {
      const auto [token, weight] = route_at(routes, i);
      for (int64_t k = 0; k < hidden; ++k) result[token * hidden + k] += weight * from[k];
      from += hidden;
    }
  }
}

void backward_block(BackwardStep& step, const Moe& op, const BlockBack& args) {
  const int64_t hidden = op.down.out, experts = op.router.out;
  float* scores_gradient = args.shared.floats(shared_slot::kScoresGradient, step.tokens * experts);
  std::fill_n(scores_gradient, step.tokens * experts, 0.0f);
  std::fill_n(args.input_gradient, step.tokens * hidden, 0.0f);
  for (int64_t e = 0; e < experts; ++e) {
    const Routes& routes = args.trace.routes[static_cast<size_t>(e)];
    const auto tokens = static_cast<int64_t>(routes.token.size());
    if (tokens == 0) continue;
    const float* result = args.trace.experts[static_cast<size_t>(e)].floats(trace_slot::kExpertResult, tokens * hidden);
    float* gradient = args.shared.floats(shared_slot::kExpertGradient, tokens * hidden);
    float* input_gradient = args.shared.floats(shared_slot::kExpertInputGradient, tokens * hidden);
    for (int64_t i = 0; i < tokens; ++i) {
      const auto [token, weight] = route_at(routes, static_cast<size_t>(i));
      const float* of_sum = args.gradient + token * hidden;
      double along = 0;
      for (int64_t k = 0; k < hidden; ++k) {
        gradient[i * hidden + k] = weight * of_sum[k];
        along += static_cast<double>(of_sum[k]) * result[i * hidden + k];
      }
      scores_gradient[token * experts + e] = static_cast<float>(along);
    }
    backward_expert(step, op, args, e, gradient, input_gradient);
    for (int64_t i = 0; i < tokens; ++i)
      for (int64_t k = 0; k < hidden; ++k)
        args.input_gradient[routes.token[static_cast<size_t>(i)] * hidden + k] += input_gradient[i * hidden + k];
  }
  const float* scores = args.trace.values.floats(trace_slot::kScores, step.tokens * experts);
  router_back(op, scores, args.trace.routes, step.tokens, scores_gradient);
  linear_back(step, {op.router, args.weights.linears[0], args.normed, scores_gradient, args.input_gradient, true});
}

}  // namespace tq
