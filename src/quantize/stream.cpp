#include "quantize/stream.h"

#include "quantize/plan.h"

namespace tq {
namespace {

// Copies of a device's inputs are measured on the host: those of every so many sequences are enough to tell what int8 costs.
constexpr int64_t kSampledSequences = 8;

struct Sums {
  Statistics& statistics;
  Backend& backend;
  ThreadPool& threads;
  const QuantizeOptions& options;
  const TokenWeights* weights;  // of all tokens of the stream, or null
  int64_t sequence = 0;         // that the input is of
  int64_t length = 0;           // tokens of a sequence
  Status status = {};           // of the device's memory
  std::vector<float> copy = {};

  Backend* device() const { return backend.quantizer() ? &backend : nullptr; }

  InputStatistics* find(const std::string& tap, int64_t columns, int64_t expert) {
    if (const auto found = statistics.find({tap, expert}); found != statistics.end()) return &found->second;
    auto moment = SecondMoment::create(columns, device());
    if (!moment) {
      status = tl::unexpected(moment.error());
      return nullptr;
    }
    InputStatistics made{std::move(*moment), ActivationError(sign_of(tap, columns, options.seed), columns), Magnitude(columns)};
    return &statistics.emplace(InputKey{tap, expert}, std::move(made)).first->second;
  }

  // What the methods ask of the values themselves.
  void measure_values(InputStatistics& found, const float* input, int64_t tokens, int64_t columns, const float* weight) {
    if (device()) {
      if (sequence % kSampledSequences != 0) return;
      copy.resize(static_cast<size_t>(tokens * columns));
      backend.download(copy.data(), input, copy.size() * sizeof(float));
      input = copy.data();
    }
    if (options.method == Method::kTurboquant) found.activation.add(input, tokens, threads, weight);
    if (options.method == Method::kAwq) found.magnitude.add(input, tokens);
  }

  void settle() {
    for (auto& [key, each] : statistics) each.moment.settle();
  }
};

// Taps of a layer in a sink that sums them up. Several linears share a tap; it is called once per tap, and per expert of a mixture.
// The tokens of an expert count alike.
TapSink sink_of(Sums& sums) {
  return [&sums](const std::string& tap, const float* input, int64_t tokens, int64_t columns, int64_t expert) {
    InputStatistics* found = sums.find(tap, columns, expert);
    if (!found) return;
    const float* weight = sums.weights && expert < 0 ? sums.weights->at(tap).data() + sums.sequence * sums.length : nullptr;
    found->moment.add(input, tokens, sums.threads, weight);
    sums.measure_values(*found, input, tokens, columns, weight);
  };
}

}  // namespace

Result<Stream> Stream::create(const Model& model, Backend& backend, const Context& context, const Settings& settings) {
  TQ_CHECK(!settings.sequences.empty());
  const uint64_t tokens = settings.sequences.size() * settings.sequences[0].size();
  TQ_ASSIGN(Memory hidden, backend.allocate(tokens * static_cast<uint64_t>(model.spec.hidden) * sizeof(float)));
  return Stream(model, backend, context, settings, std::move(hidden));
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
  TQ_ASSIGN(const LayerWeights weights, prepare_layer(model_, layer_, backend_));
  TQ_ASSIGN(const KvCache cache, KvCache::create(backend_, model_.spec, KvType::kF32, length_, layer_, layer_ + 1));
  Statistics none;
  Sums sums{statistics ? *statistics : none, backend_, context_.threads, options_, weights_, 0, length_};
  const TapSink sink = sink_of(sums);
  for (int64_t i = 0; i < sequences_; ++i) {
    if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    sums.sequence = i;
    forward_layer(model_.spec, layer_, weights, backend_,
                  {.hidden = hidden_of(i),
                   .tokens = length_,
                   .first_position = 0,
                   .kv = cache.layer(layer_),
                   .precision = Precision::kFloat,
                   .taps = statistics ? &sink : nullptr},
                  workspace_);
  }
  sums.settle();
  ++layer_;
  return sums.status;
}

Status Stream::measure_head(Statistics& statistics) {
  TQ_CHECK(layer_ == model_.spec.layers_count());
  TQ_ASSIGN(const HeadWeights head, prepare_head(model_, backend_));
  Sums sums{statistics, backend_, context_.threads, options_, weights_, 0, length_};
  const TapSink sink = sink_of(sums);
  for (int64_t i = 0; i < sequences_; ++i) {
    sums.sequence = i;
    forward_head(model_.spec, head, backend_, {.hidden = hidden_of(i), .tokens = length_, .logits = nullptr, .taps = &sink}, workspace_);
  }
  sums.settle();
  return sums.status;
}

}  // namespace tq
