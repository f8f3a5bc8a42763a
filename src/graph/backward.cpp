#include "graph/backward.h"

#include <algorithm>
#include <cmath>

#include "graph/backward_block.h"

namespace tq {
namespace {

constexpr int64_t kHeadChunk = 256;  // tokens whose logits exist at a time

bool all_finite(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float x) { return std::isfinite(x); });
}

Status finished(const BackwardStep& step) {
  if (step.not_finite.empty()) return {};
  return fail(ErrorCode::kFailed, "the gradient at the output of {} is no finite number: a weight or an activation there overflows",
              step.not_finite);
}

BackwardStep make_step(const ModelSpec& spec, Backend& backend, int64_t tokens, const KvView& kv, const GradientSinks* sinks) {
  TQ_CHECK(backend.training() != nullptr);
  return {spec, backend, *backend.training(), tokens, kv, sinks, {}};
}

// x += post(op(pre(x))): from trace.input to output[T, H], everything kept.
void forward_traced(BackwardStep& step, const Block& block, const BlockWeights& weights, BackwardWorkspace::BlockTrace& trace,
                    float* output) {
  const int64_t count = step.tokens * step.spec.hidden;
  const float* input = trace.values.floats(trace_slot::kInput, count);
  float* normed = trace.values.floats(trace_slot::kNormed, count);
  float* result = trace.values.floats(trace_slot::kResult, count);
  step.norm(block.pre, weights.pre, input, step.tokens, normed);
  std::visit([&](const auto& op) { forward_block(step, op, weights, normed, result, trace); }, block.op);
  if (block.post) step.norm(*block.post, weights.post, result, step.tokens, output);
  else std::copy_n(result, count, output);
  step.backend.add(output, input, count);
}

// gradient[T, H] of the block's output becomes that of its input.
void backward_traced(BackwardStep& step, const Block& block, const BlockWeights& weights, BackwardWorkspace::BlockTrace& trace,
                     Slots& shared, float* gradient) {
  const int64_t count = step.tokens * step.spec.hidden;
  float* result_gradient = shared.floats(shared_slot::kResultGradient, count);
  float* input_gradient = shared.floats(shared_slot::kInputGradient, count);
  std::copy_n(gradient, count, result_gradient);
  if (block.post) step.norm_back_reported(*block.post, weights.post, trace.values.floats(trace_slot::kResult, count), result_gradient);
  const BlockBack args{weights, trace.values.floats(trace_slot::kNormed, count), result_gradient, input_gradient, trace, shared};
  std::visit([&](const auto& op) { backward_block(step, op, args); }, block.op);
  step.norm_back_reported(block.pre, weights.pre, trace.values.floats(trace_slot::kInput, count), input_gradient);
  step.backend.add(gradient, input_gradient, count);
}

}  // namespace

float* Slots::floats(size_t slot, int64_t count) {
  if (slots_.size() <= slot) slots_.resize(slot + 1);
  if (slots_[slot].size() < static_cast<size_t>(count)) slots_[slot] = Buffer<float>::uninitialized(static_cast<size_t>(count));
  return slots_[slot].data();
}

void BackwardStep::report(const LinearGradient& gradient) {
  if (not_finite.empty() && !all_finite(gradient.gradient, gradient.tokens * gradient.linear.out)) not_finite = gradient.linear.name;
  if (sinks && sinks->linear) sinks->linear(gradient);
}

void BackwardStep::norm(const Norm& norm, const DeviceVector& weight, const float* input, int64_t count, float* output) const {
  backend.norm({.input = input,
                .weight = weight.data(),
                .output = output,
                .count = count,
                .width = norm.width,
                .epsilon = norm.epsilon,
                .offset = spec.norm_offset});
}

void BackwardStep::norm_back(const Norm& norm, const DeviceVector& weight, const float* input, int64_t count, float* gradient,
                             float* weight_sum) const {
  training.norm({.input = input,
                 .weight = weight.data(),
                 .gradient = gradient,
                 .input_gradient = gradient,
                 .weight_gradient = weight_sum,
                 .count = count,
                 .width = norm.width,
                 .epsilon = norm.epsilon,
                 .offset = spec.norm_offset});
}

void BackwardStep::norm_back_reported(const Norm& norm, const DeviceVector& weight, const float* input, float* gradient) const {
  std::vector<float> sum(wants_norms() ? static_cast<size_t>(norm.width) : 0);
  norm_back(norm, weight, input, tokens, gradient, sum.empty() ? nullptr : sum.data());
  if (wants_norms()) sinks->norm({norm, sum.data()});
}

void linear_back(BackwardStep& step, const LinearBack& args) {
  step.report({.linear = args.linear, .input = args.input, .gradient = args.gradient, .tokens = step.tokens, .positions = {}});
  step.training.linear({.matrix = args.weight.matrix.get(),
                        .gradient = args.gradient,
                        .input_gradient = args.input_gradient,
                        .tokens = step.tokens,
                        .accumulate = args.accumulate});
}

Status backward_layer(const ModelSpec& spec, int64_t layer, const LayerWeights& weights, Backend& backend, const BackwardArgs& args,
                      BackwardWorkspace& workspace) {
  BackwardStep step = make_step(spec, backend, args.tokens, args.kv, args.sinks);
  const auto& blocks = spec.layers[static_cast<size_t>(layer)];
  const int64_t count = args.tokens * spec.hidden;
  workspace.blocks.resize(std::max(workspace.blocks.size(), blocks.size() + 1));  // the last holds the layer's output
  std::copy_n(args.input, count, workspace.blocks[0].values.floats(trace_slot::kInput, count));
  for (size_t i = 0; i < blocks.size(); ++i)
    forward_traced(step, blocks[i], weights[i], workspace.blocks[i], workspace.blocks[i + 1].values.floats(trace_slot::kInput, count));
  for (size_t i = blocks.size(); i-- > 0;)
    backward_traced(step, blocks[i], weights[i], workspace.blocks[i], workspace.shared, args.gradient);
  return finished(step);
}

Result<double> backward_head(const ModelSpec& spec, const HeadWeights& weights, Backend& backend, const HeadBackwardArgs& args,
                             BackwardWorkspace& workspace) {
  BackwardStep step = make_step(spec, backend, args.tokens, {}, args.sinks);
  const int64_t width = spec.hidden, vocabulary = spec.vocabulary, chunk = std::min(kHeadChunk, args.tokens);
  Slots& shared = workspace.shared;
  float* normed = shared.floats(shared_slot::kNormed, args.tokens * width);
  float* logits = shared.floats(shared_slot::kLogits, chunk * vocabulary);
  float* gradient = shared.floats(shared_slot::kLogitsGradient, chunk * vocabulary);
  step.norm(spec.final_norm, weights.norm, args.hidden, args.tokens, normed);
  double total = 0;
  std::vector<double> loss(static_cast<size_t>(chunk));
  std::vector<int32_t> positions;
  for (int64_t first = 0; first < args.tokens; first += chunk) {
    const int64_t count = std::min(chunk, args.tokens - first);
    const float* input = normed + first * width;
    const LinearJob job = weights.linear.job(logits);
    backend.linear({.input = input, .tokens = count, .jobs = {&job, 1}, .precision = Precision::kFloat});
    const float cap = spec.final_softcap;
    if (cap > 0) backend.softcap(logits, count * vocabulary, cap);
    (*args.loss)({.first = first, .tokens = count, .logits = logits, .gradient = gradient, .loss = loss.data()});
    for (int64_t t = 0; t < count; ++t) total += loss[static_cast<size_t>(t)];
    if (cap > 0)
      for (int64_t i = 0; i < count * vocabulary; ++i) gradient[i] *= 1.0f - logits[i] / cap * (logits[i] / cap);
    positions.clear();
    for (int64_t t = 0; t < count; ++t) positions.push_back(static_cast<int32_t>(first + t));
    step.report({.linear = spec.head, .input = input, .gradient = gradient, .tokens = count, .positions = positions});
    step.training.linear(
        {.matrix = weights.linear.matrix.get(), .gradient = gradient, .input_gradient = args.gradient + first * width, .tokens = count});
  }
  step.norm_back_reported(spec.final_norm, weights.norm, args.hidden, args.gradient);
  TQ_TRY(finished(step));
  return total;
}

}  // namespace tq
