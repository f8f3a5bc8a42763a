#include "quantize/stream.h"

namespace tq {

Result<Stream> Stream::create(const Model& model, Backend& backend, const Context& context, const Settings& settings) {
  TQ_CHECK(!settings.sequences.empty());
  const uint64_t tokens = settings.sequences.size() * settings.sequences[0].size();
  TQ_ASSIGN(Memory hidden, backend.allocate(tokens * static_cast<uint64_t>(model.spec.hidden) * sizeof(float)));
  Stream stream(model, backend, context, settings, std::move(hidden));
  TQ_TRY(stream.workspace_.reserve(forward_floats(model.spec, stream.length_, stream.length_)));
  return stream;
}

Stream::Stream(const Model& model, Backend& backend, const Context& context, const Settings& settings, Memory hidden)
    : model_(model),
      backend_(backend),
      context_(context),
      options_(settings.options),
      weights_(settings.weights),
      sequences_(static_cast<int64_t>(settings.sequences.size())),
      length_(static_cast<int64_t>(settings.sequences[0].size())),
      hidden_(std::move(hidden)),
      workspace_(backend) {
  for (int64_t i = 0; i < sequences_; ++i) embed(model, settings.sequences[static_cast<size_t>(i)], backend, hidden_of(i));
}

Status Stream::advance(Statistics* statistics) {
  TQ_CHECK(layer_ < model_.spec.layers_count());
  const StageTimer timer(context_.times, "statistics", [this] { backend_.synchronize(); });
  TQ_ASSIGN(const LayerWeights weights, prepare_layer(model_, layer_, backend_));
  TQ_ASSIGN(const KvCache cache, KvCache::create(backend_, model_.spec, KvType::kF32, length_, layer_, layer_ + 1));
  Statistics none;
  TapMeter meter(meter_settings(), statistics ? *statistics : none);
  const Stretch whole{.tokens = length_};
  for (int64_t i = 0; i < sequences_; ++i) {
    if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    const TapSink sink = meter.sink(i);
    forward_layer(model_.spec, layer_, weights, backend_,
                  {.hidden = hidden_of(i),
                   .stretches = {&whole, 1},
                   .kv = cache.layer(layer_),
                   .precision = training_precision(model_.spec),
                   .taps = statistics ? &sink : nullptr},
                  workspace_);
  }
  ++layer_;
  return meter.finish();
}

Status Stream::measure_head(Statistics& statistics) {
  TQ_CHECK(layer_ == model_.spec.layers_count());
  TQ_ASSIGN(const HeadWeights head, prepare_head(model_, backend_));
  TapMeter meter(meter_settings(), statistics);
  for (int64_t i = 0; i < sequences_; ++i) {
    const TapSink sink = meter.sink(i);
    forward_head(model_.spec, head, backend_, {.hidden = hidden_of(i), .tokens = length_, .logits = nullptr, .taps = &sink}, workspace_);
  }
  return meter.finish();
}

}  // namespace tq
