#include "graph/training_pass.h"

#include <algorithm>

namespace tq {
namespace {

struct Wave {
  const Model& model;
  Backend& backend;
  const Context& context;
  std::span<const std::vector<int32_t>> sequences;
  int64_t length;
  Workspace workspace;

  int64_t count() const { return static_cast<int64_t>(sequences.size()); }
  int64_t floats() const { return length * model.spec.hidden; }  // of the hidden states of a sequence

  Buffer<float> embedded() {
    Buffer<float> hidden = Buffer<float>::uninitialized(static_cast<size_t>(count() * floats()));
    for (int64_t i = 0; i < count(); ++i) embed(model, sequences[static_cast<size_t>(i)], backend, hidden.data() + i * floats());
    return hidden;
  }

  // hidden[sequences, T, H] becomes what the layer makes of it.
  Status forward(int64_t layer, float* hidden) {
    TQ_ASSIGN(const LayerWeights weights, prepare_layer(model, layer, backend));
    TQ_ASSIGN(const KvCache cache, KvCache::create(backend, model.spec, KvType::kF32, length, layer, layer + 1));
    for (int64_t i = 0; i < count(); ++i) {
      if (context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      forward_layer(model.spec, layer, weights, backend,
                    {.hidden = hidden + i * floats(), .tokens = length, .kv = cache.layer(layer), .precision = Precision::kFloat},
                    workspace);
    }
    return {};
  }
};

Wave make_wave(const Model& model, Backend& backend, const Context& context, std::span<const std::vector<int32_t>> sequences) {
  TQ_CHECK(!sequences.empty());
  return {model, backend, context, sequences, static_cast<int64_t>(sequences[0].size()), Workspace(backend)};
}

class Pass {
 public:
  Pass(Wave& wave, const TrainingPassArgs& args) : wave_(wave), args_(args) {}

  Result<double> run() {
    TQ_TRY(forward());
    TQ_ASSIGN(const double loss, head());
    for (int64_t layer = wave_.model.spec.layers_count(); layer-- > 0;) TQ_TRY(backward(layer));
    if (args_.embedded)
      for (int64_t i = 0; i < wave_.count(); ++i) args_.embedded(i, gradient_.data() + i * wave_.floats());
    return loss;
  }

 private:
  Status forward() {
    states_.push_back(wave_.embedded());
    for (int64_t layer = 0; layer < wave_.model.spec.layers_count(); ++layer) {
      Buffer<float> next = Buffer<float>::uninitialized(states_.back().size());
      std::copy(states_.back().begin(), states_.back().end(), next.begin());
      TQ_TRY(wave_.forward(layer, next.data()));
      states_.push_back(std::move(next));
    }
    return {};
  }

  GradientSinks sinks(int64_t sequence) const {
    GradientSinks out;
    if (args_.linear) out.linear = [this, sequence](const LinearGradient& gradient) { args_.linear(sequence, gradient); };
    out.norm = args_.norm;
    return out;
  }

  Result<double> head() {
    TQ_ASSIGN(const HeadWeights weights, prepare_head(wave_.model, wave_.backend));
    gradient_ = Buffer<float>::uninitialized(states_.back().size());
    double total = 0;
    for (int64_t i = 0; i < wave_.count(); ++i) {
      if (wave_.context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      const LossFunction loss = [&](const LossChunk& chunk) { args_.loss(i, chunk); };
      const GradientSinks to = sinks(i);
      TQ_ASSIGN(const double one, backward_head(wave_.model.spec, weights, wave_.backend,
                                                {.hidden = states_.back().data() + i * wave_.floats(),
                                                 .gradient = gradient_.data() + i * wave_.floats(),
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
    TQ_ASSIGN(const LayerWeights weights, prepare_layer(wave_.model, layer, wave_.backend));
    TQ_ASSIGN(const KvCache cache, KvCache::create(wave_.backend, wave_.model.spec, KvType::kF32, wave_.length, layer, layer + 1));
    for (int64_t i = 0; i < wave_.count(); ++i) {
      if (wave_.context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      const GradientSinks to = sinks(i);
      TQ_TRY(backward_layer(wave_.model.spec, layer, weights, wave_.backend,
                            {.input = states_.back().data() + i * wave_.floats(),
                             .gradient = gradient_.data() + i * wave_.floats(),
                             .tokens = wave_.length,
                             .kv = cache.layer(layer),
                             .sinks = &to},
                            workspace_));
    }
    states_.pop_back();
    return {};
  }

  Wave& wave_;
  const TrainingPassArgs& args_;
  std::vector<Buffer<float>> states_;  // before each layer [sequences, T, H]; the last is taken away as the pass goes back
  Buffer<float> gradient_;             // [sequences, T, H]
  BackwardWorkspace workspace_;
};

}  // namespace

uint64_t training_bytes(const ModelSpec& spec, int64_t length) {
  return static_cast<uint64_t>(spec.layers_count() + 2) * static_cast<uint64_t>(length) * static_cast<uint64_t>(spec.hidden) *
         sizeof(float);
}

Result<double> training_pass(const Model& model, Backend& backend, const Context& context, const TrainingPassArgs& args) {
  if (!backend.training()) return fail(ErrorCode::kFailed, "the backend {} has no training operations", backend.name());
  Wave wave = make_wave(model, backend, context, args.sequences);
  auto loss = Pass(wave, args).run();
  if (!loss && loss.error().code == ErrorCode::kFailed) return fail(ErrorCode::kFailed, "{}: {}", model.source, loss.error().message);
  return loss;
}

Result<Buffer<float>> final_hidden(const Model& model, Backend& backend, const Context& context,
                                   std::span<const std::vector<int32_t>> sequences) {
  Wave wave = make_wave(model, backend, context, sequences);
  Buffer<float> hidden = wave.embedded();
  for (int64_t layer = 0; layer < model.spec.layers_count(); ++layer) TQ_TRY(wave.forward(layer, hidden.data()));
  return hidden;
}

}  // namespace tq
