#include "quantize/stream.h"

#include "quantize/plan.h"

namespace tq {
namespace {

// Taps of a layer in a sink that sums them up. Several linears share a tap; it is called once per tap, and per expert of a mixture.
TapSink sink_of(Statistics& statistics, ThreadPool& threads, uint64_t seed) {
  return [&statistics, &threads, seed](const std::string& tap, const float* input, int64_t tokens, int64_t columns, int64_t expert) {
    auto found = statistics.find({tap, expert});
    if (found == statistics.end())
      found =
          statistics
              .emplace(InputKey{tap, expert}, InputStatistics{SecondMoment(columns), ActivationError(sign_of(tap, columns, seed), columns)})
              .first;
    found->second.moment.add(input, tokens, threads);
    found->second.activation.add(input, tokens, threads);
  };
}

}  // namespace

Stream::Stream(const Model& model, Backend& backend, const Context& context, std::span<const std::vector<TokenId>> sequences, uint64_t seed)
    : model_(model),
      backend_(backend),
      context_(context),
      seed_(seed),
      sequences_(static_cast<int64_t>(sequences.size())),
      workspace_(backend) {
  TQ_CHECK(!sequences.empty());
  length_ = static_cast<int64_t>(sequences[0].size());
  hidden_ = Buffer<float>::uninitialized(static_cast<size_t>(sequences_ * length_ * model.spec.hidden));
  for (int64_t i = 0; i < sequences_; ++i)
    embed(model, sequences[static_cast<size_t>(i)], backend, hidden_.data() + i * length_ * model.spec.hidden);
}

Status Stream::advance(Statistics* statistics) {
  TQ_CHECK(layer_ < model_.spec.layers_count());
  TQ_ASSIGN(const LayerWeights weights, prepare_layer(model_, layer_, backend_));
  TQ_ASSIGN(const KvCache cache, KvCache::create(backend_, model_.spec, KvType::kF32, length_, layer_, layer_ + 1));
  const TapSink sink = statistics ? sink_of(*statistics, context_.threads, seed_) : TapSink{};
  for (int64_t i = 0; i < sequences_; ++i) {
    if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    forward_layer(model_.spec, layer_, weights, backend_,
                  {.hidden = hidden_.data() + i * length_ * model_.spec.hidden,
                   .tokens = length_,
                   .first_position = 0,
                   .kv = cache.layer(layer_),
                   .precision = Precision::kFloat,
                   .taps = statistics ? &sink : nullptr},
                  workspace_);
  }
  ++layer_;
  return {};
}

Status Stream::measure_head(Statistics& statistics) {
  TQ_CHECK(layer_ == model_.spec.layers_count());
  TQ_ASSIGN(const HeadWeights head, prepare_head(model_, backend_));
  const TapSink sink = sink_of(statistics, context_.threads, seed_);
  for (int64_t i = 0; i < sequences_; ++i)
    forward_head(model_.spec, head, backend_,
                 {.hidden = hidden_.data() + i * length_ * model_.spec.hidden, .tokens = length_, .logits = nullptr, .taps = &sink},
                 workspace_);
  return {};
}

}  // namespace tq
