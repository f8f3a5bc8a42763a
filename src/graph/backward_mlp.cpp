#include "graph/backward_block.h"

namespace tq {

void forward_block(BackwardStep& step, const Mlp& op, const BlockWeights& weights, const float* normed, float* result,
                   BackwardWorkspace::BlockTrace& trace) {
  const int64_t width = op.down.in;
  const bool fused = op.gate_up.size() == 1;
  float* gate = trace.values.floats(trace_slot::kGateUp, step.tokens * 2 * width);
  float* up = gate + (fused ? width : step.tokens * width);
  float* activated = trace.values.floats(trace_slot::kActivated, step.tokens * width);
  std::vector<LinearJob> jobs = {weights.linears[0].job(gate)};
  if (!fused) jobs.push_back(weights.linears[1].job(up));
  step.backend.linear({.input = normed, .tokens = step.tokens, .jobs = jobs, .precision = training_precision(step.spec)});
  step.backend.gated({.kind = static_cast<GateKind>(op.activation),
                      .gate = gate,
                      .up = up,
                      .output = activated,
                      .tokens = step.tokens,
                      .width = width,
                      .stride = fused ? 2 * width : width});
  const LinearJob job = weights.linears.back().job(result);
  step.backend.linear({.input = activated, .tokens = step.tokens, .jobs = {&job, 1}, .precision = training_precision(step.spec)});
}

void backward_block(BackwardStep& step, const Mlp& op, const BlockBack& args) {
  const int64_t width = op.down.in;
  const bool fused = op.gate_up.size() == 1;
  const int64_t up = fused ? width : step.tokens * width;
  const float* gate_up = args.trace.values.floats(trace_slot::kGateUp, step.tokens * 2 * width);
  float* activated_gradient = args.shared.floats(shared_slot::kActivatedGradient, step.tokens * width);
  float* gradient = args.shared.floats(shared_slot::kGateUpGradient, step.tokens * 2 * width);
  linear_back(step, {op.down, args.weights.linears.back(), args.trace.values.floats(trace_slot::kActivated, step.tokens * width),
                     args.result, args.gradient, activated_gradient});
  step.training.gated({.kind = static_cast<GateKind>(op.activation),
                       .gate = gate_up,
                       .up = gate_up + up,
                       .gradient = activated_gradient,
                       .gate_gradient = gradient,
                       .up_gradient = gradient + up,
                       .tokens = step.tokens,
                       .width = width,
                       .stride = fused ? 2 * width : width});
  linear_back(step, {op.gate_up[0], args.weights.linears[0], args.normed, gate_up, gradient, args.input_gradient});
  if (!fused)
    linear_back(step, {op.gate_up[1], args.weights.linears[1], args.normed, gate_up + up, gradient + up, args.input_gradient, true});
}

}  // namespace tq
