#include "graph/forward.h"

#include <algorithm>

#include "graph/mixture.h"

namespace tq {
namespace {

// Slots of the workspace.
enum Slot : size_t { kNormed, kFused, kMixed, kResult, kGateUp, kActivated, kFinal, kMixture };

struct Step {
  const ModelSpec& spec;
  Backend& backend;
  const ForwardArgs& args;
  Workspace& workspace;
  int64_t tokens = tokens_of(args.stretches);
  bool is_done = false;  // the last tap has been called

  void tap(const std::string& name, const float* input, int64_t columns) {
    if (!args.taps) return;
    (*args.taps)(name, input, tokens, columns, -1);
    is_done = name == args.last_tap;
  }
  NormArgs norm_args(const Norm& norm, const DeviceVector& weight, const float* input, int64_t count, float* output) const {
    return {.input = input,
            .weight = weight.data(),
            .output = output,
            .count = count,
            .width = norm.width,
            .epsilon = norm.epsilon,
            .offset = spec.norm_offset};
  }
  void norm(const Norm& norm, const DeviceVector& weight, const float* input, int64_t count, float* output) const {
    backend.norm(norm_args(norm, weight, input, count, output));
  }
  // The linears behind a block's norm. With taps, the norm has its own memory to be seen in.
  void normed_linear(const NormArgs& norm, const std::string& tap_name, std::span<const LinearJob> jobs) {
    const LinearArgs linear{.input = norm.output, .tokens = tokens, .jobs = jobs, .precision = args.precision};
    if (!args.taps) return backend.fused_linear({.linear = linear, .norm = &norm});
    backend.norm(norm);
    tap(tap_name, norm.output, norm.width);
    if (!is_done) backend.linear(linear);
  }
  // The last linear of a block, which is added to the hidden states at once unless a norm comes between.
  void last_linear(const LinearArgs& linear, const GatedArgs* gated, bool adds) const {
    backend.fused_linear({.linear = linear, .gated = gated, .sum = adds ? args.hidden : nullptr});
  }
};

// The three of q, k, v lie in one buffer [T, q + 2 kv] when fused, else in three; stride tells the distance of tokens.
struct Heads {
  float* query;
  float* key;
  float* value;
  int64_t query_stride, key_stride;
};

Heads project_heads(Step& step, const Attention& op, const BlockWeights& weights, const NormArgs& norm) {
  const int64_t tokens = step.tokens;
  const int64_t query = op.heads * op.head_dim, key = op.kv_heads * op.head_dim;
  float* out = step.workspace.floats(kFused, tokens * (query + 2 * key));
  std::vector<LinearJob> jobs;
  Heads heads{};
  if (op.qkv.size() == 1) {
    jobs = {weights.linears[0].job(out)};
    heads = {out, out + query, out + query + key, query + 2 * key, query + 2 * key};
  } else {
    heads = {out, out + tokens * query, out + tokens * (query + key), query, key};
    jobs = {weights.linears[0].job(heads.query), weights.linears[1].job(heads.key), weights.linears[2].job(heads.value)};
  }
  step.normed_linear(norm, op.qkv[0].tap, jobs);
  return heads;
}

void norm_heads(const Step& step, const Norm& norm, const DeviceVector& weight, float* values, int64_t heads, int64_t stride) {
  if (stride == heads * norm.width) return step.norm(norm, weight, values, step.tokens * heads, values);
  for (int64_t t = 0; t < step.tokens; ++t) step.norm(norm, weight, values + t * stride, heads, values + t * stride);
}

int64_t length_of(const Stretch& stretch) { return std::max(stretch.sequence_length, stretch.first_position + stretch.tokens); }

// Rows [first_row, …) of the batch, which one table of frequencies rotates.
void rotate_store_attend(const Step& step, const Attention& op, const Heads& heads, float* mixed, std::span<const Stretch> stretches,
                         int64_t first_row) {
  const ForwardArgs& args = step.args;
  const RotaryArgs query{.values = heads.query + first_row * heads.query_stride,
                         .stretches = stretches,
                         .heads = op.heads,
                         .head_dim = op.head_dim,
                         .stride = heads.query_stride,
                         .inv_freq = rotary_frequencies(op.rope, length_of(stretches[0])),
                         .magnitude = op.rope.magnitude};
  RotaryArgs key = query;
  key.values = heads.key + first_row * heads.key_stride, key.heads = op.kv_heads, key.stride = heads.key_stride;
  const KvStoreArgs store{.key = key.values,
                          .value = heads.value + first_row * heads.key_stride,
                          .stretches = stretches,
                          .stride = heads.key_stride,
                          .kv = args.kv};
  step.backend.rotate_store_attend(query, key, store,
                                   {.query = query.values,
                                    .output = mixed + first_row * op.heads * op.head_dim,
                                    .stretches = stretches,
                                    .heads = op.heads,
                                    .stride = heads.query_stride,
                                    .kv = args.kv,
                                    .window = op.window,
                                    .scale = op.score_scale,
                                    .softcap = op.softcap,
                                    .precision = args.precision});
}

void rotate_store_attend(const Step& step, const Attention& op, const Heads& heads, float* mixed) {
  const std::span<const Stretch> all = step.args.stretches;
  const auto frequencies = [&](size_t i) { return &rotary_frequencies(op.rope, length_of(all[i])); };
  int64_t row = 0;
  for (size_t first = 0, last = 0; first < all.size(); first = last) {
    while (last < all.size() && frequencies(last) == frequencies(first)) ++last;
    const auto part = all.subspan(first, last - first);
    rotate_store_attend(step, op, heads, mixed, part, row);
    row += tokens_of(part);
  }
}

// A block's operation: its result, or nullptr when that has been added to the hidden states or the last tap has been called. norm: what
// stands before it.
float* run_op(Step& step, const Attention& op, const BlockWeights& weights, const NormArgs& norm, bool adds) {
  const ForwardArgs& args = step.args;
  const Heads heads = project_heads(step, op, weights, norm);
  if (step.is_done) return nullptr;
  if (op.query_norm) norm_heads(step, *op.query_norm, weights.query_norm, heads.query, op.heads, heads.query_stride);
  if (op.key_norm) norm_heads(step, *op.key_norm, weights.key_norm, heads.key, op.kv_heads, heads.key_stride);
  const int64_t tokens = step.tokens, width = op.heads * op.head_dim;
  float* mixed = step.workspace.floats(kMixed, tokens * width);
  rotate_store_attend(step, op, heads, mixed);
  step.tap(op.output.tap, mixed, width);
  if (step.is_done) return nullptr;
  float* result = step.workspace.floats(kResult, tokens * step.spec.hidden);
  const LinearJob job = weights.linears.back().job(result);
  step.last_linear({.input = mixed, .tokens = tokens, .jobs = {&job, 1}, .precision = args.precision}, nullptr, adds);
  return adds ? nullptr : result;
}

float* run_op(Step& step, const Mlp& op, const BlockWeights& weights, const NormArgs& norm, bool adds) {
  const ForwardArgs& args = step.args;
  const int64_t tokens = step.tokens, width = op.down.in;
  float* gate_up = step.workspace.floats(kGateUp, tokens * 2 * width);
  const bool fused = op.gate_up.size() == 1;
  float* up = fused ? gate_up + width : gate_up + tokens * width;
  std::vector<LinearJob> jobs = {weights.linears[0].job(gate_up)};
  if (!fused) jobs.push_back(weights.linears[1].job(up));
  step.normed_linear(norm, op.gate_up[0].tap, jobs);
  if (step.is_done) return nullptr;
  float* activated = step.workspace.floats(kActivated, tokens * width);
  const GatedArgs gated{.kind = static_cast<GateKind>(op.activation),
                        .gate = gate_up,
                        .up = up,
                        .output = activated,
                        .tokens = tokens,
                        .width = width,
                        .stride = fused ? 2 * width : width};
  if (args.taps) {
    step.backend.gated(gated);
    step.tap(op.down.tap, activated, width);
    if (step.is_done) return nullptr;
  }
  float* result = step.workspace.floats(kResult, tokens * step.spec.hidden);
  const LinearJob job = weights.linears.back().job(result);
  step.last_linear({.input = activated, .tokens = tokens, .jobs = {&job, 1}, .precision = args.precision}, args.taps ? nullptr : &gated,
                   adds);
  return adds ? nullptr : result;
}

float* run_op(Step& step, const Moe& op, const BlockWeights& weights, const NormArgs& norm, bool) {
  step.backend.norm(norm);
  float* result = step.workspace.floats(kResult, step.tokens * step.spec.hidden);
  run_mixture(op, weights, step.backend,
              {.input = norm.output,
               .output = result,
               .tokens = step.tokens,
               .hidden = step.spec.hidden,
               .precision = step.args.precision,
               .taps = step.args.taps},
              step.workspace, kMixture);
  return result;
}

}  // namespace

Status Workspace::reserve(size_t slot, int64_t count) {
  if (slots_.size() <= slot) slots_.resize(slot + 1);
  const uint64_t bytes = static_cast<uint64_t>(count) * sizeof(float);
  if (slots_[slot].bytes() >= bytes) return {};
  slots_[slot] = Memory();  // before its successor
  TQ_ASSIGN(slots_[slot], backend_->allocate(bytes));
  return {};
}

Status Workspace::reserve(const std::vector<int64_t>& counts) {
  for (size_t slot = 0; slot < counts.size(); ++slot) TQ_TRY(reserve(slot, counts[slot]));
  return {};
}

float* Workspace::floats(size_t slot, int64_t count) {
  TQ_CHECK(reserve(slot, count));
  return slots_[slot].as<float>();
}

std::vector<int64_t> forward_floats(const ModelSpec& spec, int64_t rows, int64_t head_rows) {
  int64_t fused = 0, mixed = 0, gated = 0;  // widths
  std::vector<int64_t> mixture;
  for (const auto& layer : spec.layers)
    for (const Block& block : layer) {
      if (const auto* op = std::get_if<Attention>(&block.op)) {
        mixed = std::max(mixed, op->heads * op->head_dim);
        fused = std::max(fused, (op->heads + 2 * op->kv_heads) * op->head_dim);
      } else if (const auto* mlp = std::get_if<Mlp>(&block.op)) {
        gated = std::max(gated, mlp->down.in);
      } else {
        const std::vector<int64_t> own = mixture_floats(std::get<Moe>(block.op), rows, spec.hidden);
        mixture.resize(own.size());
        for (size_t i = 0; i < own.size(); ++i) mixture[i] = std::max(mixture[i], own[i]);
      }
    }
  std::vector<int64_t> floats(kMixture);
  floats[kNormed] = floats[kResult] = rows * spec.hidden;
  floats[kFused] = rows * fused, floats[kMixed] = rows * mixed;
  floats[kGateUp] = rows * 2 * gated, floats[kActivated] = rows * gated;
  floats[kFinal] = head_rows * spec.hidden;
  floats.insert(floats.end(), mixture.begin(), mixture.end());
  return floats;
}

Precision training_precision(const ModelSpec& spec) {
  for (const auto& layer : spec.layers)
    for (const Block& block : layer)
      if (std::holds_alternative<Moe>(block.op)) return Precision::kFloat;
  return Precision::kTraining;
}

void forward_layer(const ModelSpec& spec, int64_t layer, const LayerWeights& weights, Backend& backend, const ForwardArgs& args,
                   Workspace& workspace) {
  Step step{spec, backend, args, workspace};
  const int64_t tokens = step.tokens;
  const auto& blocks = spec.layers[static_cast<size_t>(layer)];
  for (size_t i = 0; i < blocks.size(); ++i) {
    float* normed = workspace.floats(kNormed, tokens * spec.hidden);
    const NormArgs norm = step.norm_args(blocks[i].pre, weights[i].pre, args.hidden, tokens, normed);
    const bool adds = !blocks[i].post;
    float* result = std::visit([&](const auto& op) { return run_op(step, op, weights[i], norm, adds); }, blocks[i].op);
    if (step.is_done) return;
    if (!result) continue;
    if (blocks[i].post) step.norm(*blocks[i].post, weights[i].post, result, tokens, result);
    backend.add(args.hidden, result, tokens * spec.hidden);
  }
}

const std::vector<float>& rotary_frequencies(const Rope& rope, int64_t length) {
  return !rope.long_inv_freq.empty() && length > rope.original_context ? rope.long_inv_freq : rope.inv_freq;
}

bool rotates_as_long(const ModelSpec& spec, int64_t length) {
  return std::any_of(spec.layers.begin(), spec.layers.end(), [length](const auto& layer) {
    const Rope& rope = attention_of(layer).rope;
    return &rotary_frequencies(rope, length) != &rope.inv_freq;
  });
}

void embed(const Model& model, std::span<const int32_t> tokens, Backend& backend, float* hidden) {
  const PackedTensor* table = model.find(model.spec.embedding + ".weight");
  TQ_CHECK(table != nullptr);
  for (const int32_t token : tokens) TQ_CHECK(token >= 0 && token < model.spec.vocabulary);
  backend.embed({.table = table, .tokens = tokens, .scale = model.spec.embed_scale, .output = hidden});
}

void forward_head(const ModelSpec& spec, const HeadWeights& weights, Backend& backend, const HeadArgs& args, Workspace& workspace) {
  float* normed = workspace.floats(kFinal, args.tokens * spec.hidden);
  const NormArgs norm{.input = args.hidden,
                      .weight = weights.norm.data(),
                      .output = normed,
                      .count = args.tokens,
                      .width = spec.hidden,
                      .epsilon = spec.final_norm.epsilon,
                      .offset = spec.norm_offset};
  if (args.taps) {
    backend.norm(norm);
    (*args.taps)(spec.head.tap, normed, args.tokens, spec.hidden, -1);
  }
  if (!args.logits) return;
  const LinearJob job = weights.linear.job(args.logits);
  backend.fused_linear({.linear = {.input = normed, .tokens = args.tokens, .jobs = {&job, 1}, .precision = args.precision},
                        .norm = args.taps ? nullptr : &norm});
  if (spec.final_softcap > 0) backend.softcap(args.logits, args.tokens * spec.vocabulary, spec.final_softcap);
}

}  // namespace tq
