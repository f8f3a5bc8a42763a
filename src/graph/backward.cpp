#include "graph/backward.h"

#include <algorithm>

#include "graph/backward_block.h"

namespace tq {
namespace {

constexpr int64_t kHeadChunk = 256;  // tokens whose logits exist at a time

Status not_finite(const std::string& where) {
  return fail(ErrorCode::kFailed, "the gradient at the output of {} is no finite number: a weight or an activation there overflows", where);
}

BackwardStep make_step(const ModelSpec& spec, Backend& backend, int64_t tokens, const GradientSinks* sinks, Workspace& shared) {
  TQ_CHECK(backend.training() != nullptr);
  return {spec, backend, *backend.training(), tokens, {}, sinks, &shared, false, {}};
}

bool is_finite(Training& training, const float* gradient, int64_t tokens, int64_t width) {
  bool finite = true;
  training.squares({.gradient = gradient, .finite = &finite, .tokens = tokens, .rows = width});
  return finite;
}

void copy_floats(Backend& backend, float* to, const float* from, int64_t count) {
  backend.copy(to, from, static_cast<uint64_t>(count) * sizeof(float));
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
  else copy_floats(step.backend, output, result, count);
  step.backend.add(output, input, count);
}

// gradient[T, H] of the block's output becomes that of its input.
void backward_traced(BackwardStep& step, const Block& block, const BlockWeights& weights, BackwardWorkspace::BlockTrace& trace,
                     float* gradient) {
  Workspace& shared = *step.shared;
  const int64_t count = step.tokens * step.spec.hidden;
  float* result_gradient = shared.floats(shared_slot::kResultGradient, count);
  float* input_gradient = shared.floats(shared_slot::kInputGradient, count);
  const float* result = trace.values.floats(trace_slot::kResult, count);
  copy_floats(step.backend, result_gradient, gradient, count);
  if (block.post) step.norm_back_reported(*block.post, weights.post, result, result_gradient);
  const BlockBack args{weights, trace.values.floats(trace_slot::kNormed, count), result, result_gradient, input_gradient, trace, shared};
  std::visit([&](const auto& op) { backward_block(step, op, args); }, block.op);
  step.norm_back_reported(block.pre, weights.pre, trace.values.floats(trace_slot::kInput, count), input_gradient);
  step.backend.add(gradient, input_gradient, count);
}

// The logits before the softcap, for the sink.
const float* keep_plain(const BackwardStep& step, const float* logits, int64_t count) {
  if (!step.sinks || !step.sinks->linear) return nullptr;
  float* plain = step.shared->floats(shared_slot::kPlainLogits, count);
  copy_floats(step.backend, plain, logits, count);
  return plain;
}

// All blocks back, from the traces.
void backward_blocks(BackwardStep& step, int64_t layer, const LayerWeights& weights, BackwardWorkspace& workspace, float* gradient) {
  const auto& blocks = step.spec.layers[static_cast<size_t>(layer)];
  for (size_t i = blocks.size(); i-- > 0;) backward_traced(step, blocks[i], weights[i], workspace.blocks[i], gradient);
}

}  // namespace

void BackwardStep::report(const LinearGradient& gradient) {
  if (searches && not_finite.empty() && !is_finite(training, gradient.gradient, gradient.tokens, gradient.linear.out))
    not_finite = gradient.linear.name;
  if (sinks && sinks->linear) sinks->linear(gradient);
}

float* BackwardStep::norm_sum(const Norm& norm) const {
  if (!wants_norms()) return nullptr;
  float* sum = shared->floats(shared_slot::kNormSum, norm.width);
  backend.zero(sum, norm.width);
  return sum;
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
  float* sum = norm_sum(norm);
  norm_back(norm, weight, input, tokens, gradient, sum);
  if (sum) sinks->norm({norm, sum});
}

void linear_back(BackwardStep& step, const LinearBack& args) {
  step.report({.linear = args.linear,
               .input = args.input,
               .output = args.output,
               .gradient = args.gradient,
               .bias = args.weight.job(nullptr).bias,
               .tokens = step.tokens,
               .positions = {}});
  step.training.linear({.matrix = args.weight.matrix.get(),
                        .gradient = args.gradient,
                        .input_gradient = args.input_gradient,
                        .tokens = step.tokens,
                        .accumulate = args.accumulate});
}

const float* trace_layer(const ModelSpec& spec, int64_t layer, const LayerWeights& weights, Backend& backend, const TraceArgs& args,
                         BackwardWorkspace& workspace) {
  BackwardStep step = make_step(spec, backend, args.tokens, nullptr, workspace.shared);
  step.kv = args.kv;
  const auto& blocks = spec.layers[static_cast<size_t>(layer)];
  const int64_t count = args.tokens * spec.hidden;
  while (workspace.blocks.size() < blocks.size() + 1) workspace.blocks.emplace_back(backend);  // the last holds the layer's output
  const auto input_of = [&](size_t i) { return workspace.blocks[i].values.floats(trace_slot::kInput, count); };
  copy_floats(backend, input_of(0), args.input, count);
  for (size_t i = 0; i < blocks.size(); ++i) forward_traced(step, blocks[i], weights[i], workspace.blocks[i], input_of(i + 1));
  return input_of(blocks.size());
}

// Only the gradient that goes on is checked: what is no finite number on the way is none there either. Where that happens, the layer goes
// back again to find the linear.
Status backward_layer(const ModelSpec& spec, int64_t layer, const LayerWeights& weights, Backend& backend, const BackwardArgs& args,
                      BackwardWorkspace& workspace) {
  BackwardStep step = make_step(spec, backend, args.tokens, args.sinks, workspace.shared);
  const int64_t count = args.tokens * spec.hidden;
  float* entering = workspace.shared.floats(shared_slot::kEntering, count);
  copy_floats(backend, entering, args.gradient, count);
  backward_blocks(step, layer, weights, workspace, args.gradient);
  if (is_finite(step.training, args.gradient, args.tokens, spec.hidden)) return {};
  step.sinks = nullptr, step.searches = true;
  backward_blocks(step, layer, weights, workspace, entering);
  return not_finite(step.not_finite.empty() ? fmt::format("layer {}", layer - 1) : step.not_finite);
}

Result<double> backward_head(const ModelSpec& spec, const HeadWeights& weights, Backend& backend, const HeadBackwardArgs& args,
                             BackwardWorkspace& workspace) {
  BackwardStep step = make_step(spec, backend, args.tokens, args.sinks, workspace.shared);
  step.searches = true;
  const int64_t width = spec.hidden, vocabulary = spec.vocabulary, chunk = std::min(kHeadChunk, args.tokens);
  Workspace& shared = workspace.shared;
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
    backend.linear({.input = input, .tokens = count, .jobs = {&job, 1}, .precision = Precision::kTraining});
    const float cap = spec.final_softcap;
    const float* plain = cap > 0 ? keep_plain(step, logits, count * vocabulary) : logits;
    if (cap > 0) backend.softcap(logits, count * vocabulary, cap);
    (*args.loss)({.first = first, .tokens = count, .logits = logits, .gradient = gradient, .loss = loss.data()});
    for (int64_t t = 0; t < count; ++t) total += loss[static_cast<size_t>(t)];
    if (cap > 0) step.training.softcap({.output = logits, .gradient = gradient, .count = count * vocabulary, .cap = cap});
    positions.clear();
    for (int64_t t = 0; t < count; ++t) positions.push_back(static_cast<int32_t>(first + t));
    step.report({.linear = spec.head,
                 .input = input,
                 .output = plain,
                 .gradient = gradient,
                 .bias = job.bias,
                 .tokens = count,
                 .positions = positions});
    step.training.linear(
        {.matrix = weights.linear.matrix.get(), .gradient = gradient, .input_gradient = args.gradient + first * width, .tokens = count});
  }
  step.norm_back_reported(spec.final_norm, weights.norm, args.hidden, args.gradient);
  if (!step.not_finite.empty()) TQ_TRY(not_finite(step.not_finite));
  return total;
}

}  // namespace tq
