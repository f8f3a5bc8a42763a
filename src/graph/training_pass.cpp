#include "graph/training_pass.h"

namespace tq {
namespace {

constexpr uint64_t kTraceBytes = uint64_t{2} << 30;

// What trace_layer() keeps of `tokens` tokens; 0: of a layer that is not kept.
uint64_t trace_bytes(const std::vector<Block>& layer, int64_t hidden, int64_t tokens) {
  int64_t floats = hidden;
  for (const Block& block : layer) {
    floats += 3 * hidden;
    if (const auto* attention = std::get_if<Attention>(&block.op))
      floats += (3 * attention->heads + 4 * attention->kv_heads) * attention->head_dim;
    else if (const auto* mlp = std::get_if<Mlp>(&block.op)) floats += 3 * mlp->down.in;
    else return 0;
  }
  return static_cast<uint64_t>(floats * tokens) * sizeof(float);
}

struct Wave {
  const Model& model;
  Backend& backend;
  const Context& context;
  std::span<const std::vector<int32_t>> sequences;
  const TrainableModel* resident;  // or null
  int64_t length;
  Workspace workspace;

  int64_t count() const { return static_cast<int64_t>(sequences.size()); }
  int64_t floats() const { return length * model.spec.hidden; }  // of the hidden states of a sequence
  uint64_t bytes() const { return static_cast<uint64_t>(count() * floats()) * sizeof(float); }

  Result<Memory> embedded() {
    TQ_ASSIGN(Memory hidden, backend.allocate(bytes()));
    for (int64_t i = 0; i < count(); ++i) embed(model, sequences[static_cast<size_t>(i)], backend, hidden.as<float>() + i * floats());
    return hidden;
  }

  // Calls work(sequence, weights, keys and values of the layer) for every sequence.
  template <typename Work>
  Status each(int64_t layer, const Work& work) {
    LayerWeights prepared;
    if (!resident) {
      TQ_ASSIGN(prepared, prepare_layer(model, layer, backend));
    }
    const LayerWeights& weights = resident ? resident->layers[static_cast<size_t>(layer)] : prepared;
    TQ_ASSIGN(const KvCache cache, KvCache::create(backend, model.spec, KvType::kF32, length, layer, layer + 1));
    for (int64_t i = 0; i < count(); ++i) {
      if (context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      TQ_TRY(work(i, weights, cache.layer(layer)));
    }
    return {};
  }

  // hidden[sequences, T, H] becomes what the layer makes of it.
  Status forward(int64_t layer, float* hidden) {
    const Stretch whole{.tokens = length};
    return each(layer, [&](int64_t i, const LayerWeights& weights, const KvView& kv) -> Status {
      forward_layer(model.spec, layer, weights, backend,
                    {.hidden = hidden + i * floats(), .stretches = {&whole, 1}, .kv = kv, .precision = training_precision(model.spec)},
                    workspace);
      return {};
    });
  }
};

Wave make_wave(const Model& model, Backend& backend, const Context& context, std::span<const std::vector<int32_t>> sequences,
               const TrainableModel* resident = nullptr) {
  TQ_CHECK(!sequences.empty());
  return {model, backend, context, sequences, resident, static_cast<int64_t>(sequences[0].size()), Workspace(backend)};
}

class Pass {
 public:
  Pass(Wave& wave, const TrainingPassArgs& args)
      : wave_(wave),
        args_(args),
        first_kept_(first_kept_layer(wave.model.spec, wave.count() * wave.length, wave.backend.is_host())),
        kept_(args.traces ? *args.traces : own_traces_),
        workspace_(wave.backend) {
    kept_.resize(static_cast<size_t>(wave.model.spec.layers_count() * wave.count()));
  }

  Result<double> run() {
    TQ_TRY(forward());
    TQ_ASSIGN(const double loss, head());
    for (int64_t layer = wave_.model.spec.layers_count(); layer-- > 0;) TQ_TRY(backward(layer));
    if (args_.embedded)
      for (int64_t i = 0; i < wave_.count(); ++i) args_.embedded(i, of_sequence(gradient_, i));
    return loss;
  }

 private:
  float* of_sequence(const Memory& states, int64_t i) const { return states.as<float>() + i * wave_.floats(); }

  Status forward() {
    TQ_ASSIGN(Memory hidden, wave_.embedded());
    states_.push_back(std::move(hidden));
    for (int64_t layer = 0; layer < wave_.model.spec.layers_count(); ++layer) {
      TQ_ASSIGN(Memory next, wave_.backend.allocate(wave_.bytes()));
      if (layer >= first_kept_) {
        TQ_TRY(trace(layer, next));
        states_.push_back(std::move(next));
        continue;
      }
      wave_.backend.copy(next.as<float>(), states_.back().as<float>(), wave_.bytes());
      TQ_TRY(wave_.forward(layer, next.as<float>()));
      states_.push_back(std::move(next));
    }
    return {};
  }

  const float* trace_one(int64_t layer, int64_t i, const LayerWeights& weights, const KvView& kv) {
    return trace_layer(wave_.model.spec, layer, weights, wave_.backend,
                       {.input = of_sequence(states_[static_cast<size_t>(layer)], i), .tokens = wave_.length, .kv = kv}, workspace_);
  }
  // Takes the memory of a layer's trace into the workspace, or back.
  void swap_trace(int64_t layer, int64_t i) { workspace_.blocks.swap(kept_[static_cast<size_t>(layer * wave_.count() + i)]); }

  // Forward with everything kept. output: [sequences, T, H]
  Status trace(int64_t layer, const Memory& output) {
    return wave_.each(layer, [&](int64_t i, const LayerWeights& weights, const KvView& kv) -> Status {
      swap_trace(layer, i);
      wave_.backend.copy(of_sequence(output, i), trace_one(layer, i, weights, kv), static_cast<uint64_t>(wave_.floats()) * sizeof(float));
      swap_trace(layer, i);
      return {};
    });
  }

  GradientSinks sinks(int64_t sequence) const {
    GradientSinks out;
    if (args_.linear) out.linear = [this, sequence](const LinearGradient& gradient) { args_.linear(sequence, gradient); };
    out.norm = args_.norm;
    return out;
  }

  Result<double> head() {
    HeadWeights prepared;
    if (!wave_.resident) {
      TQ_ASSIGN(prepared, prepare_head(wave_.model, wave_.backend));
    }
    TQ_ASSIGN(gradient_, wave_.backend.allocate(wave_.bytes()));
    double total = 0;
    for (int64_t i = 0; i < wave_.count(); ++i) {
      if (wave_.context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      const LossFunction loss = [&](const LossChunk& chunk) { args_.loss(i, chunk); };
      const GradientSinks to = sinks(i);
      TQ_ASSIGN(const double one, backward_head(wave_.model.spec, wave_.resident ? wave_.resident->head : prepared, wave_.backend,
                                                {.hidden = of_sequence(states_.back(), i),
                                                 .gradient = of_sequence(gradient_, i),
                                                 .tokens = wave_.length,
                                                 .loss = &loss,
                                                 .sinks = &to},
                                                workspace_));
      total += one;
    }
    states_.pop_back();
    return total;
  }

  Status backward(int64_t layer) {
    const ModelSpec& spec = wave_.model.spec;
    TQ_TRY(wave_.each(layer, [&](int64_t i, const LayerWeights& weights, const KvView& kv) -> Status {
      const GradientSinks to = sinks(i);
      if (layer >= first_kept_) swap_trace(layer, i);
      else trace_one(layer, i, weights, kv);
      TQ_TRY(backward_layer(spec, layer, weights, wave_.backend,
                            {.gradient = of_sequence(gradient_, i), .tokens = wave_.length, .sinks = &to}, workspace_));
      if (layer >= first_kept_) swap_trace(layer, i);
      return {};
    }));
    states_.pop_back();
    return {};
  }

  Wave& wave_;
  const TrainingPassArgs& args_;
  std::vector<Memory> states_;  // before each layer [sequences, T, H]; the last is taken away as the pass goes back
  Memory gradient_;             // [sequences, T, H]
  int64_t first_kept_;          // layer
  KeptTraces own_traces_;
  KeptTraces& kept_;
  BackwardWorkspace workspace_;
};

}  // namespace

uint64_t training_bytes(const ModelSpec& spec, int64_t length) {
  return static_cast<uint64_t>(spec.layers_count() + 2) * static_cast<uint64_t>(length) * static_cast<uint64_t>(spec.hidden) *
         sizeof(float);
}

int64_t first_kept_layer(const ModelSpec& spec, int64_t tokens, bool is_host) {
  int64_t first = spec.layers_count();
  uint64_t all = 0;
  while (is_host && first > 0) {
    const uint64_t bytes = trace_bytes(spec.layers[static_cast<size_t>(first - 1)], spec.hidden, tokens);
    if (bytes == 0 || (all += bytes) > kTraceBytes) break;
    --first;
  }
  return first;
}

uint64_t kept_trace_bytes(const ModelSpec& spec, int64_t tokens) {
  uint64_t all = 0;
  for (int64_t layer = first_kept_layer(spec, tokens, true); layer < spec.layers_count(); ++layer)
    all += trace_bytes(spec.layers[static_cast<size_t>(layer)], spec.hidden, tokens);
  return all;
}

Result<double> training_pass(const Model& model, Backend& backend, const Context& context, const TrainingPassArgs& args) {
  if (!backend.training()) return fail(ErrorCode::kFailed, "the backend {} has no training operations", backend.name());
  Wave wave = make_wave(model, backend, context, args.sequences, args.weights);
  auto loss = Pass(wave, args).run();
  if (!loss && loss.error().code == ErrorCode::kFailed) return fail(ErrorCode::kFailed, "{}: {}", model.source, loss.error().message);
  return loss;
}

Result<Memory> final_hidden(const Model& model, Backend& backend, const Context& context, std::span<const std::vector<int32_t>> sequences,
                            const TrainableModel* weights) {
  Wave wave = make_wave(model, backend, context, sequences, weights);
  TQ_ASSIGN(Memory hidden, wave.embedded());
  for (int64_t layer = 0; layer < model.spec.layers_count(); ++layer) TQ_TRY(wave.forward(layer, hidden.as<float>()));
  return hidden;
}

}  // namespace tq
