#include <algorithm>
#include <cmath>
#include <numeric>

#include "graph/backward_block.h"
#include "graph/uploaded.h"

namespace tq {
namespace {

std::vector<float> download(Backend& backend, const float* from, int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  backend.download(out.data(), from, out.size() * sizeof(float));
  return out;
}

// Where the tokens of an expert lie among all, and what its answer counts for each.
struct DeviceRoutes {
  const int32_t* row;
  const float* weight;
};
DeviceRoutes routes_of(Workspace& expert, const Routes& routes) {
  const auto tokens = static_cast<int64_t>(routes.token.size());
  return {reinterpret_cast<const int32_t*>(expert.floats(trace_slot::kExpertRows, tokens)),
          expert.floats(trace_slot::kExpertWeights, tokens)};
}

// Adds to result[T, H].
void forward_expert(BackwardStep& step, const Moe& op, const std::vector<LinearWeight>& weights, const float* normed, const Routes& routes,
                    Workspace& expert, float* result) {
  const auto tokens = static_cast<int64_t>(routes.token.size());
  const int64_t hidden = op.down.out, width = op.down.in;
  float* input = expert.floats(trace_slot::kExpertInput, tokens * hidden);
  float* gate = expert.floats(trace_slot::kGateUp, tokens * 2 * width);
  float* activated = expert.floats(trace_slot::kActivated, tokens * width);
  float* own = expert.floats(trace_slot::kExpertResult, tokens * hidden);
  const int32_t* row = uploaded(step.backend, expert, trace_slot::kExpertRows, routes.token);
  const float* weight = uploaded(step.backend, expert, trace_slot::kExpertWeights, routes.weight);
  step.backend.gather({.input = normed, .row = row, .output = input, .count = tokens, .width = hidden});
  const LinearJob in[] = {weights[0].job(gate), weights[1].job(gate + tokens * width)};
  step.backend.linear({.input = input, .tokens = tokens, .jobs = in, .precision = training_precision(step.spec)});
  step.backend.gated({.kind = static_cast<GateKind>(op.activation),
                      .gate = gate,
                      .up = gate + tokens * width,
                      .output = activated,
                      .tokens = tokens,
                      .width = width,
                      .stride = width});
  const LinearJob out = weights[2].job(own);
  step.backend.linear({.input = activated, .tokens = tokens, .jobs = {&out, 1}, .precision = training_precision(step.spec)});
  step.backend.scatter_add({.input = own, .row = row, .weight = weight, .output = result, .count = tokens, .width = hidden});
}

// One linear of an expert: reported, and its input's gradient.
struct ExpertLinear {
  const Linear& linear;
  const LinearWeight& weight;
  int64_t index;
  const float* input;
  const float* output;
  const float* gradient;
  float* input_gradient;
  bool accumulate = false;
};

void expert_linear_back(BackwardStep& step, const Routes& routes, const ExpertLinear& args) {
  const auto tokens = static_cast<int64_t>(routes.token.size());
  step.report({.linear = args.linear,
               .expert = args.index,
               .input = args.input,
               .output = args.output,
               .gradient = args.gradient,
               .bias = args.weight.job(nullptr).bias,
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
  Workspace& expert = args.trace.experts[static_cast<size_t>(index)];
  const Routes& routes = args.trace.routes[static_cast<size_t>(index)];
  const auto& weights = args.weights.experts[static_cast<size_t>(index)];
  const auto tokens = static_cast<int64_t>(routes.token.size());
  const int64_t width = op.down.in, up = tokens * width;
  const float* gate = expert.floats(trace_slot::kGateUp, 2 * up);
  const float* input = expert.floats(trace_slot::kExpertInput, tokens * op.down.out);
  float* activated_gradient = args.shared.floats(shared_slot::kActivatedGradient, up);
  float* gate_gradient = args.shared.floats(shared_slot::kGateUpGradient, 2 * up);
  expert_linear_back(step, routes,
                     {op.down, weights[2], index, expert.floats(trace_slot::kActivated, up),
                      expert.floats(trace_slot::kExpertResult, tokens * op.down.out), gradient, activated_gradient});
  step.training.gated({.kind = static_cast<GateKind>(op.activation),
                       .gate = gate,
                       .up = gate + up,
                       .gradient = activated_gradient,
                       .gate_gradient = gate_gradient,
                       .up_gradient = gate_gradient + up,
                       .tokens = tokens,
                       .width = width,
                       .stride = width});
  expert_linear_back(step, routes, {op.gate_up[0], weights[0], index, input, gate, gate_gradient, input_gradient});
  expert_linear_back(step, routes, {op.gate_up[1], weights[1], index, input, gate + up, gate_gradient + up, input_gradient, true});
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
  const int64_t hidden = op.down.out, experts = op.router.out, count = step.tokens * experts;
  float* scores = trace.values.floats(trace_slot::kScores, count);
  const LinearJob job = weights.linears[0].job(scores);
  step.backend.linear({.input = normed, .tokens = step.tokens, .jobs = {&job, 1}, .precision = training_precision(step.spec)});
  trace.routes = route(op, download(step.backend, scores, count), step.tokens);
  while (trace.experts.size() < static_cast<size_t>(experts)) trace.experts.emplace_back(step.backend);
  step.backend.zero(result, step.tokens * hidden);
  for (size_t e = 0; e < trace.routes.size(); ++e)
    if (!trace.routes[e].token.empty()) forward_expert(step, op, weights.experts[e], normed, trace.routes[e], trace.experts[e], result);
}

// Routes and the gradients of the router's scores are the host's.
void backward_block(BackwardStep& step, const Moe& op, const BlockBack& args) {
  const int64_t hidden = op.down.out, experts = op.router.out;
  std::vector<float> scores_gradient(static_cast<size_t>(step.tokens * experts));
  step.backend.zero(args.input_gradient, step.tokens * hidden);
  for (int64_t e = 0; e < experts; ++e) {
    const Routes& routes = args.trace.routes[static_cast<size_t>(e)];
    const auto tokens = static_cast<int64_t>(routes.token.size());
    if (tokens == 0) continue;
    Workspace& expert = args.trace.experts[static_cast<size_t>(e)];
    const DeviceRoutes places = routes_of(expert, routes);
    float* gradient = args.shared.floats(shared_slot::kExpertGradient, tokens * hidden);
    float* input_gradient = args.shared.floats(shared_slot::kExpertInputGradient, tokens * hidden);
    step.backend.gather({.input = args.gradient, .row = places.row, .output = gradient, .count = tokens, .width = hidden});
    const std::vector<float> of_sum = download(step.backend, gradient, tokens * hidden);
    const std::vector<float> result = download(step.backend, expert.floats(trace_slot::kExpertResult, tokens * hidden), tokens * hidden);
    for (int64_t i = 0; i < tokens; ++i) {
      const auto from = static_cast<std::ptrdiff_t>(i * hidden);
      const double along = std::inner_product(of_sum.begin() + from, of_sum.begin() + from + hidden, result.begin() + from, 0.0);
      scores_gradient[static_cast<size_t>(routes.token[static_cast<size_t>(i)] * experts + e)] = static_cast<float>(along);
    }
    step.training.scale_rows({.values = gradient, .factor = places.weight, .rows = tokens, .columns = hidden});
    backward_expert(step, op, args, e, gradient, input_gradient);
    step.backend.scatter_add({.input = input_gradient, .row = places.row, .output = args.input_gradient, .count = tokens, .width = hidden});
  }
  const float* scores = args.trace.values.floats(trace_slot::kScores, step.tokens * experts);
  router_back(op, download(step.backend, scores, step.tokens * experts).data(), args.trace.routes, step.tokens, scores_gradient.data());
  const float* gradient = uploaded(step.backend, args.shared, shared_slot::kScoresGradient, scores_gradient);
  linear_back(step, {op.router, args.weights.linears[0], args.normed, scores, gradient, args.input_gradient, true});
}

}  // namespace tq
