#include "graph/backward_block.h"

namespace tq {
namespace {

// Where query, key and value of the tokens lie in one memory: in rows of q + 2 kv when the projection is fused, else one after another.
struct Places {
  int64_t query = 0, key = 0, value = 0;  // offsets
  int64_t query_stride = 0, key_stride = 0;
  int64_t floats = 0;

  Places(const Attention& op, int64_t tokens) {
    const int64_t q = op.heads * op.head_dim, kv = op.kv_heads * op.head_dim;
    const bool fused = op.qkv.size() == 1;
    key = fused ? q : tokens * q;
    value = fused ? q + kv : tokens * (q + kv);
    query_stride = fused ? q + 2 * kv : q;
    key_stride = fused ? q + 2 * kv : kv;
    floats = tokens * (q + 2 * kv);
  }
  int64_t of_linear(size_t i) const { return i == 0 ? query : i == 1 ? key : value; }
};

// A head norm over rows `stride` floats apart.
struct HeadNorm {
  const Norm& norm;
  const DeviceVector& weight;
  int64_t heads, stride;
};

// Rows without gaps are normed in one go.
void norm_heads(const BackwardStep& step, const HeadNorm& args, float* values) {
  if (args.stride == args.heads * args.norm.width) return step.norm(args.norm, args.weight, values, step.tokens * args.heads, values);
  for (int64_t t = 0; t < step.tokens; ++t)
    step.norm(args.norm, args.weight, values + t * args.stride, args.heads, values + t * args.stride);
}

void norm_heads_back(const BackwardStep& step, const HeadNorm& args, const float* input, float* gradient) {
  float* sum = step.norm_sum(args.norm);
  if (args.stride == args.heads * args.norm.width) {
    step.norm_back(args.norm, args.weight, input, step.tokens * args.heads, gradient, sum);
  } else {
    for (int64_t t = 0; t < step.tokens; ++t)
      step.norm_back(args.norm, args.weight, input + t * args.stride, args.heads, gradient + t * args.stride, sum);
  }
  if (sum) step.sinks->norm({args.norm, sum});
}

RotaryArgs rotation(const BackwardStep& step, const Attention& op, float* values, int64_t heads, int64_t stride) {
  return {.values = values,
          .stretches = {&step.whole, 1},
          .heads = heads,
          .head_dim = op.head_dim,
          .stride = stride,
          .inv_freq = rotary_frequencies(op.rope, step.tokens),
          .magnitude = op.rope.magnitude};
}

}  // namespace

void forward_block(BackwardStep& step, const Attention& op, const BlockWeights& weights, const float* normed, float* result,
                   BackwardWorkspace::BlockTrace& trace) {
  const Places places(op, step.tokens);
  const int64_t width = op.heads * op.head_dim;
  float* projected = trace.values.floats(trace_slot::kProjected, places.floats);
  float* rotated = trace.values.floats(trace_slot::kRotated, places.floats);
  float* mixed = trace.values.floats(trace_slot::kMixed, step.tokens * width);
  std::vector<LinearJob> jobs;
  for (size_t i = 0; i < op.qkv.size(); ++i) jobs.push_back(weights.linears[i].job(projected + places.of_linear(i)));
  step.backend.linear({.input = normed, .tokens = step.tokens, .jobs = jobs, .precision = training_precision(step.spec)});
  step.backend.copy(rotated, projected, static_cast<uint64_t>(places.floats) * sizeof(float));
  if (op.query_norm) norm_heads(step, {*op.query_norm, weights.query_norm, op.heads, places.query_stride}, rotated);
  if (op.key_norm) norm_heads(step, {*op.key_norm, weights.key_norm, op.kv_heads, places.key_stride}, rotated + places.key);
  step.backend.rotary(rotation(step, op, rotated, op.heads, places.query_stride));
  step.backend.rotary(rotation(step, op, rotated + places.key, op.kv_heads, places.key_stride));
  step.backend.kv_store({.key = rotated + places.key,
                         .value = rotated + places.value,
                         .stretches = {&step.whole, 1},
                         .stride = places.key_stride,
                         .kv = step.kv});
  step.backend.attend({.query = rotated,
                       .output = mixed,
                       .stretches = {&step.whole, 1},
                       .heads = op.heads,
                       .stride = places.query_stride,
                       .kv = step.kv,
                       .window = op.window,
                       .scale = op.score_scale,
                       .softcap = op.softcap});
  const LinearJob job = weights.linears.back().job(result);
  step.backend.linear({.input = mixed, .tokens = step.tokens, .jobs = {&job, 1}, .precision = training_precision(step.spec)});
}

void backward_block(BackwardStep& step, const Attention& op, const BlockBack& args) {
  const Places places(op, step.tokens);
  const int64_t mixed_count = step.tokens * op.heads * op.head_dim;
  const float* projected = args.trace.values.floats(trace_slot::kProjected, places.floats);
  const float* rotated = args.trace.values.floats(trace_slot::kRotated, places.floats);
  float* mixed_gradient = args.shared.floats(shared_slot::kMixedGradient, mixed_count);
  float* gradient = args.shared.floats(shared_slot::kProjectedGradient, places.floats);
  linear_back(step, {op.output, args.weights.linears.back(), args.trace.values.floats(trace_slot::kMixed, mixed_count), args.result,
                     args.gradient, mixed_gradient});
  step.training.attend({.query = rotated,
                        .key = rotated + places.key,
                        .value = rotated + places.value,
                        .gradient = mixed_gradient,
                        .query_gradient = gradient,
                        .key_gradient = gradient + places.key,
                        .value_gradient = gradient + places.value,
                        .tokens = step.tokens,
                        .heads = op.heads,
                        .kv_heads = op.kv_heads,
                        .head_dim = op.head_dim,
                        .query_stride = places.query_stride,
                        .key_stride = places.key_stride,
                        .window = op.window,
                        .scale = op.score_scale,
                        .softcap = op.softcap});
  step.training.rotary(rotation(step, op, gradient, op.heads, places.query_stride));
  step.training.rotary(rotation(step, op, gradient + places.key, op.kv_heads, places.key_stride));
  if (op.query_norm) norm_heads_back(step, {*op.query_norm, args.weights.query_norm, op.heads, places.query_stride}, projected, gradient);
  if (op.key_norm)
    norm_heads_back(step, {*op.key_norm, args.weights.key_norm, op.kv_heads, places.key_stride}, projected + places.key,
                    gradient + places.key);
  for (size_t i = 0; i < op.qkv.size(); ++i)
    linear_back(step, {op.qkv[i], args.weights.linears[i], args.normed, projected + places.of_linear(i), gradient + places.of_linear(i),
                       args.input_gradient, i > 0});
}

}  // namespace tq
