#include "quantize/calibrate_passes.h"

#include <algorithm>

#include "quantize/tap_meter.h"

namespace tq {
namespace {

constexpr double kWorstGrowth = 1.02;  // of the error of one text

Status stopped() { return fail(ErrorCode::kInterrupted, "stopped"); }

// Scaled to mean 1.
void normalise(std::vector<float>& weight) {
  double sum = 0;
  for (const float each : weight) sum += static_cast<double>(each);
  const auto scale = static_cast<float>(static_cast<double>(weight.size()) / sum);
  for (float& each : weight) each *= scale;
}

}  // namespace

bool BlockErrors::is_no_worse_anywhere(const BlockErrors& other) const {
  for (size_t i = 0; i < text.size(); ++i)
    if (!(text[i] <= kWorstGrowth * other.text[i])) return false;
  return true;
}

Result<CalibrationPasses> CalibrationPasses::create(const CalibrationRequest& request, Backend& backend, const Context& context) {
  TQ_CHECK(!request.sequences.empty() && request.text.size() == request.sequences.size());
  if (!backend.training()) return fail(ErrorCode::kFailed, "the backend {} has no training operations", backend.name());
  CalibrationPasses passes(request, backend, context);
  TQ_TRY(passes.allocate());
  for (int64_t i = 0; i < passes.count(); ++i) {
    embed(request.model, request.sequences[static_cast<size_t>(i)], backend, passes.quantized(i));
    backend.copy(passes.target(i), passes.quantized(i), static_cast<uint64_t>(passes.floats_) * sizeof(float));
  }
  return passes;
}

CalibrationPasses::CalibrationPasses(const CalibrationRequest& request, Backend& backend, const Context& context)
    : request_(request),
      backend_(&backend),
      context_(&context),
      split_(split_sequences({request.text.begin(), request.text.end()})),
      length_(static_cast<int64_t>(request.sequences[0].size())),
      floats_(length_ * request.model.spec.hidden),
      texts_(static_cast<size_t>(*std::max_element(request.text.begin(), request.text.end())) + 1),
      compensates_(calibration_budget(request.plan.options, count_weights(request.model.spec).linears).compensates),
      is_held_out_(request.sequences.size()),
      workspace_(backend),
      backward_(backend) {
  for (const int64_t i : split_.held_out) is_held_out_[static_cast<size_t>(i)] = true;
}

Status CalibrationPasses::allocate() {
  const auto allocate = [&](Memory& memory, int64_t floats) -> Status {
    TQ_ASSIGN(memory, backend_->allocate(static_cast<uint64_t>(floats) * sizeof(float)));
    return {};
  };
  for (Memory* stream : {&quantized_, &target_}) TQ_TRY(allocate_stream(*stream));
  for (Memory* one : {&scratch_, &gradient_}) TQ_TRY(allocate(*one, floats_));
  return allocate(token_weight_, count() * length_);
}

// Hidden states of all sequences: what takes the most memory, and what fewer tokens make smaller.
Status CalibrationPasses::allocate_stream(Memory& stream) {
  Result<Memory> made = backend_->allocate(static_cast<uint64_t>(count() * floats_) * sizeof(float));
  if (!made)
    return fail(made.error().code, "{}; the hidden states of {} calibration tokens are kept there: --calibration-tokens takes fewer",
                made.error().message, count() * length_);
  stream = std::move(*made);
  return {};
}

Status CalibrationPasses::begin(int64_t layer) {
  layer_ = layer;
  TQ_ASSIGN(kv_, KvCache::create(*backend_, spec(), KvType::kF32, length_, layer, layer + 1));
  return {};
}

Status CalibrationPasses::forward(const LayerWeights& weights, float* hidden, const Forward& how) {
  if (context_->stopped()) return stopped();
  const Stretch front{.tokens = first_tokens(how.tokens), .sequence_length = length_};
  forward_layer(spec(), layer_, weights, *backend_,
                {.hidden = hidden,
                 .stretches = {&front, 1},
                 .kv = kv(),
                 .precision = training_precision(spec()),
                 .taps = how.taps,
                 .last_tap = how.last},
                workspace_);
  return {};
}

// Room for what the original gives within a layer; layers differ in their number of blocks at most.
Status CalibrationPasses::allocate_original() {
  inputs_.resize(blocks().size()), hidden_.resize(blocks().size());
  for (size_t b = 0; b < blocks().size(); ++b)
    for (Memory* memory : {&inputs_[b], &hidden_[b]})
      if (memory->empty() && (b > 0 || memory != &hidden_[b])) TQ_TRY(allocate_stream(*memory));
  return {};
}

Status CalibrationPasses::make_targets(const LayerWeights& weights) {
  if (compensates_) TQ_TRY(allocate_original());
  const auto bytes = static_cast<uint64_t>(floats_) * sizeof(float);
  for (int64_t i = 0; i < count(); ++i) {
    const TapSink keep = [&](const std::string& tap, const float* input, int64_t, int64_t, int64_t) {
      for (size_t b = 0; b < blocks().size(); ++b) {
        if (linears(blocks()[b]).front()->tap != tap) continue;
        backend_->copy(original_input(b, i), input, bytes);
        if (b > 0) backend_->copy(original_hidden(b - 1, i), target(i), bytes);
      }
    };
    TQ_TRY(forward(weights, target(i), {.tokens = 0, .taps = compensates_ ? &keep : nullptr, .last = {}}));
  }
  weigh_tokens();
  return {};
}

// How much the error of a token counts: what the loss feels at the layer's output, as far as it was measured. Else an error counts in
// relation to the hidden state, since every norm that reads it divides by its size.
void CalibrationPasses::weigh_tokens() {
  std::vector<float> weight(static_cast<size_t>(count() * length_));
  backend_->training()->squares(
      {.gradient = target_.as<float>(), .token = token_weight_.as<float>(), .tokens = count() * length_, .rows = spec().hidden});
  backend_->download(weight.data(), token_weight_.as<float>(), weight.size() * sizeof(float));
  for (float& each : weight) each = 1.0f / std::max(each, 1e-20f);
  const auto* mlp = std::get_if<Mlp>(&spec().layers[static_cast<size_t>(layer_)].back().op);
  if (request_.weights && mlp) {
    normalise(weight);
    replace_measured(request_.weights->at(mlp->down.tap), weight);
  }
  normalise(weight);
  weight_ = weight;
  set_weights(std::move(weight));
}

void CalibrationPasses::weigh_texts(const std::vector<double>& factor) {
  TQ_CHECK(factor.size() == texts_);
  std::vector<float> weight = weight_;
  for (const int64_t i : split_.training) {
    const auto text = static_cast<size_t>(request_.text[static_cast<size_t>(i)]);
    for (int64_t t = 0; t < length_; ++t) weight[static_cast<size_t>(i * length_ + t)] *= static_cast<float>(factor[text]);
  }
  set_weights(std::move(weight));
}

void CalibrationPasses::set_weights(std::vector<float> weight) {
  backend_->upload(token_weight_.as<float>(), weight.data(), weight.size() * sizeof(float));
  tap_weights_.clear();
  if (!compensates_) return;
  for (const Block& block : blocks())
    for (const Linear* linear : linears(block)) tap_weights_[linear->tap] = weight;
}

void CalibrationPasses::replace_measured(const std::vector<float>& measured, std::vector<float>& weight) const {
  for (size_t i = 0; i < weight.size(); ++i)
    if (request_.is_measured.empty() || request_.is_measured[i / static_cast<size_t>(length_)]) weight[i] = measured[i];
}

Status CalibrationPasses::advance(const LayerWeights& weights) {
  for (int64_t i = 0; i < count(); ++i) TQ_TRY(forward(weights, quantized(i), {}));
  return {};
}

float* CalibrationPasses::copied(int64_t sequence) {
  backend_->copy(scratch_.as<float>(), quantized(sequence), static_cast<uint64_t>(floats_) * sizeof(float));
  return scratch_.as<float>();
}

bool CalibrationPasses::can_measure(const MisfitPlace& place) const {
  return compensates_ && judges_apart() && !(place.is_output && blocks()[place.block].post);
}

Status CalibrationPasses::measure(const LayerWeights& weights, const std::set<std::string>* taps, Statistics& statistics,
                                  MisfitMeter* misfit) {
  std::string last;
  for (const Block& block : blocks())
    for (const Linear* linear : linears(block))
      if (!taps || taps->contains(linear->tap)) last = linear->tap;
  if (misfit && misfit->place().is_output) {
    const size_t next = misfit->place().block + 1;
    last = next < blocks().size() ? linears(blocks()[next]).front()->tap : std::string();
  }
  const TokenWeights* token_weights = compensates_ ? &tap_weights_ : request_.weights;
  TapMeter meter({*backend_, context_->threads, request_.plan.options, token_weights, length_, taps}, statistics);
  for (int64_t i = 0; i < count(); ++i) {
    const TapSink sink = meter.sink(i);
    TQ_TRY(measure_one(weights, i, last, sink, misfit));
  }
  return meter.finish();
}

Status CalibrationPasses::measure_one(const LayerWeights& weights, int64_t sequence, std::string_view last, const TapSink& statistics,
                                      MisfitMeter* misfit) {
  float* hidden = copied(sequence);
  if (!misfit) return forward(weights, hidden, {.tokens = 0, .taps = &statistics, .last = last});
  const MisfitPlace& place = misfit->place();
  const MisfitMeter::Sequence own{
      .hidden = hidden,
      .original = place.is_output ? original_hidden(place.block, sequence) : original_input(place.block, sequence),
      .weight = token_weight(sequence),
      .host_weight = {tap_weights_.at(place.tap).data() + sequence * length_, static_cast<size_t>(length_)},
      .is_held_out = is_held_out_[static_cast<size_t>(sequence)]};
  const TapSink sink = [&](const std::string& tap, const float* input, int64_t tokens, int64_t columns, int64_t expert) {
    if (tap == last && tap != place.tap) return misfit->finish(own);  // the hidden state behind the place's block, before its norm
    if (tap != place.tap) return;
    if (!own.is_held_out) statistics(tap, input, tokens, columns, expert);
    misfit->see(input, own);
  };
  TQ_TRY(forward(weights, hidden, {.tokens = 0, .taps = &sink, .last = last}));
  if (last.empty()) misfit->finish(own);
  return {};
}

Status CalibrationPasses::measure_head(Statistics& statistics) {
  TQ_ASSIGN(const HeadWeights head, prepare_head(request_.model, *backend_));
  TapMeter meter({*backend_, context_->threads, request_.plan.options, request_.weights, length_}, statistics);
  for (int64_t i = 0; i < count(); ++i) {
    const TapSink sink = meter.sink(i);
    forward_head(spec(), head, *backend_, {.hidden = quantized(i), .tokens = length_, .logits = nullptr, .taps = &sink}, workspace_);
  }
  return meter.finish();
}

Result<BlockErrors> CalibrationPasses::held_out_errors(const LayerWeights& weights, int64_t tokens) {
  tokens = first_tokens(tokens);
  BlockErrors errors{std::vector<double>(texts_), 0};
  std::vector<int64_t> sequences(texts_);
  for (const int64_t i : split_.held_out) {
    const float* output = copied(i);
    TQ_TRY(forward(weights, scratch_.as<float>(), {.tokens = tokens}));
    double loss = 0;
    backend_->training()->squared_error({.output = output,
                                         .target = target(i),
                                         .weight = token_weight(i),
                                         .gradient = gradient_.as<float>(),
                                         .loss = &loss,
                                         .tokens = tokens,
                                         .width = spec().hidden,
                                         .scale = 1.0f / static_cast<float>(tokens)});
    const auto text = static_cast<size_t>(request_.text[static_cast<size_t>(i)]);
    errors.text[text] += loss, errors.all += loss, ++sequences[text];
  }
  for (size_t i = 0; i < texts_; ++i) errors.text[i] /= static_cast<double>(std::max<int64_t>(1, sequences[i]));
  errors.all /= static_cast<double>(split_.held_out.size());
  return errors;
}

Status CalibrationPasses::gradients(const LayerWeights& weights, const Training& training, const GradientSinks& sinks) {
  if (context_->stopped()) return stopped();
  const int64_t sequence = training.sequence, tokens = first_tokens(training.tokens);
  const float* output =
      trace_layer(spec(), layer_, weights, *backend_, {.input = quantized(sequence), .tokens = tokens, .kv = kv()}, backward_);
  backend_->training()->squared_error({.output = output,
                                       .target = target(sequence),
                                       .weight = token_weight(sequence),
                                       .gradient = gradient_.as<float>(),
                                       .loss = nullptr,
                                       .tokens = tokens,
                                       .width = spec().hidden,
                                       .scale = static_cast<float>(training.scale)});
  return backward_layer(spec(), layer_, weights, *backend_, {.gradient = gradient_.as<float>(), .tokens = tokens, .sinks = &sinks},
                        backward_);
}

}  // namespace tq
