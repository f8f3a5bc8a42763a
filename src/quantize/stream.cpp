#include "quantize/stream.h"

namespace tq {
namespace {

// Taps of a layer in a sink that sums them up. Several linears share a tap; it is called once per tap.
TapSink sink_of(Moments& moments, ThreadPool& threads) {
  return [&](const std::string& tap, const float* input, int64_t tokens, int64_t columns, int64_t) {
    auto found = moments.find(tap);
    if (found == moments.end()) found = moments.emplace(tap, SecondMoment(columns)).first;
    found->second.add(input, tokens, threads);
  };
}

}  // namespace

Stream::Stream(const Model& model, Backend& backend, const Context& context, std::span<const std::vector<TokenId>> sequences)
    : model_(model), backend_(backend), context_(context), sequences_(static_cast<int64_t>(sequences.size())), workspace_(backend) {
  TQ_CHECK(!sequences.empty());
  length_ = static_cast<int64_t>(sequences[0].size());
  hidden_ = Buffer<float>::uninitialized(static_cast<size_t>(sequences_ * length_ * model.spec.hidden));
  for (int64_t i = 0; i < sequences_; ++i)
    embed(model, sequences[static_cast<size_t>(i)], backend, hidden_.data() + i * length_ * model.spec.hidden);
}

Status Stream::advance(Moments* moments) {
  TQ_CHECK(layer_ < model_.spec.layers_count());
  TQ_ASSIGN(const LayerWeights weights, prepare_layer(model_, layer_, backend_));
  TQ_ASSIGN(const KvCache cache, KvCache::create(backend_, model_.spec, KvType::kF32, length_, layer_, layer_ + 1));
  const TapSink sink = moments ? sink_of(*moments, context_.threads) : TapSink{};
  for (int64_t i = 0; i < sequences_; ++i) {
    if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    forward_layer(model_.spec, layer_, weights, backend_,
                  {.hidden = hidden_.data() + i * length_ * model_.spec.hidden,
                   .tokens = length_,
                   .first_position = 0,
                   .kv = cache.layer(layer_),
                   .precision = Precision::kFloat,
                   .taps = moments ? &sink : nullptr},
                  workspace_);
  }
  ++layer_;
  return {};
}

Status Stream::head_moment(Moments& moments) {
  TQ_CHECK(layer_ == model_.spec.layers_count());
  TQ_ASSIGN(const HeadWeights head, prepare_head(model_, backend_));
  const TapSink sink = sink_of(moments, context_.threads);
  for (int64_t i = 0; i < sequences_; ++i)
    forward_head(model_.spec, head, backend_,
                 {.hidden = hidden_.data() + i * length_ * model_.spec.hidden, .tokens = length_, .logits = nullptr, .taps = &sink},
                 workspace_);
  return {};
}

}  // namespace tq
