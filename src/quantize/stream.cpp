#include "quantize/stream.h"

#include "quantize/plan.h"

namespace tq {
namespace {

struct Sums {
  Statistics& statistics;
  ThreadPool& threads;
  const QuantizeOptions& options;
  const TokenWeights* weights;  // of all tokens of the stream, or null
  int64_t first = 0;            // token of the stream that the input begins with
};

// Taps of a layer in a sink that sums them up. Several linears share a tap; it is called once per tap, and per expert of a mixture.
// The tokens of an expert count alike.
TapSink sink_of(Sums& sums) {
  return [&sums](const std::string& tap, const float* input, int64_t tokens, int64_t columns, int64_t expert) {
    const QuantizeOptions& options = sums.options;
    auto found = sums.statistics.find({tap, expert});
    if (found == sums.statistics.end())
      found = sums.statistics
                  .emplace(InputKey{tap, expert},
                           InputStatistics{SecondMoment(columns), ActivationError(sign_of(tap, columns, options.seed), columns),
                                           Magnitude(columns)})
                  .first;
    const float* weight = sums.weights && expert < 0 ? sums.weights->at(tap).data() + sums.first : nullptr;
    found->second.moment.add(input, tokens, sums.threads, weight);
    if (options.method == Method::kTurboquant) found->second.activation.add(input, tokens, sums.threads, weight);
    if (options.method == Method::kAwq) found->second.magnitude.add(input, tokens);
  };
}

}  // namespace

Stream::Stream(const Model& model, Backend& backend, const Context& context, std::span<const std::vector<TokenId>> sequences,
               const QuantizeOptions& options, const TokenWeights* weights)
    : model_(model),
      backend_(backend),
      context_(context),
      options_(options),
      weights_(weights),
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
  Statistics none;
  Sums sums{statistics ? *statistics : none, context_.threads, options_, weights_};
  const TapSink sink = sink_of(sums);
  for (int64_t i = 0; i < sequences_; ++i) {
    if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    sums.first = i * length_;
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
  Sums sums{statistics, context_.threads, options_, weights_};
  const TapSink sink = sink_of(sums);
  for (int64_t i = 0; i < sequences_; ++i) {
    sums.first = i * length_;
    forward_head(model_.spec, head, backend_,
                 {.hidden = hidden_.data() + i * length_ * model_.spec.hidden, .tokens = length_, .logits = nullptr, .taps = &sink},
                 workspace_);
  }
  return {};
}

}  // namespace tq
