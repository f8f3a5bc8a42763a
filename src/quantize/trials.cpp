#include "quantize/trials.h"

#include <algorithm>

#include "graph/backward.h"

namespace tq {
namespace {

constexpr int64_t kChunk = 256;  // positions whose logits exist at a time

}  // namespace

Result<Trials> Trials::create(const Model& original, const Model& base, Backend& backend, const Context& context,
                              std::span<const std::vector<int32_t>> sequences, int64_t stride) {
  TQ_CHECK(!sequences.empty() && backend.training());
  Trials trials(original, base, backend, context);
  trials.sequences_ = static_cast<int64_t>(sequences.size()), trials.length_ = static_cast<int64_t>(sequences[0].size());
  trials.stride_ = stride;
  const ModelSpec& spec = base.spec;
  const auto count = static_cast<size_t>(trials.sequences_ * trials.length_ * spec.hidden);
  Buffer<float> hidden = Buffer<float>::uninitialized(count);
  for (size_t i = 0; i < sequences.size(); ++i)
    embed(original, sequences[i], backend, hidden.data() + static_cast<int64_t>(i) * trials.length_ * spec.hidden);
  const auto copy = [&] {
    Buffer<float> out = Buffer<float>::uninitialized(count);
    std::copy(hidden.begin(), hidden.end(), out.begin());
    return out;
  };
  trials.states_.push_back(copy());
  for (int64_t layer = 0; layer < spec.layers_count(); ++layer) TQ_TRY(trials.advance(original, layer, hidden.data()));
  trials.reference_ = copy();
  std::copy(trials.states_[0].begin(), trials.states_[0].end(), hidden.begin());
  for (int64_t layer = 0; layer < spec.layers_count(); ++layer) {
    TQ_TRY(trials.advance(base, layer, hidden.data()));
    trials.states_.push_back(copy());
  }
  return trials;
}

int64_t Trials::first_layer(const Changes& changes) const {
  const ModelSpec& spec = variant_.spec;
  for (int64_t layer = 0; layer < spec.layers_count(); ++layer)
    for (const Block& block : spec.layers[static_cast<size_t>(layer)])
      for (const Linear* linear : linears(block))
        if (changes.contains(linear->name + ".weight")) return layer;
  return spec.layers_count();
}

Status Trials::advance(const Model& model, int64_t layer, float* hidden) {
  TQ_ASSIGN(const LayerWeights weights, prepare_layer(model, layer, *backend_));
  TQ_ASSIGN(const KvCache cache, KvCache::create(*backend_, model.spec, KvType::kF32, length_, layer, layer + 1));
  for (int64_t i = 0; i < sequences_; ++i) {
    if (context_->stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    forward_layer(
        model.spec, layer, weights, *backend_,
        {.hidden = hidden + i * length_ * model.spec.hidden, .tokens = length_, .kv = cache.layer(layer), .precision = Precision::kFloat},
        workspace_);
  }
  return {};
}

Result<double> Trials::divergence(const Changes& changes) {
  std::map<std::string, PackedTensor> kept;
  for (const auto& [name, tensor] : changes) kept[name] = std::exchange(variant_.tensors.at(name), *tensor);
  const int64_t first = first_layer(changes);
  const Buffer<float>& from = states_[static_cast<size_t>(first)];
  Buffer<float> hidden = Buffer<float>::uninitialized(from.size());
  std::copy(from.begin(), from.end(), hidden.begin());
  Status status;
  for (int64_t layer = first; layer < variant_.spec.layers_count() && status; ++layer) status = advance(variant_, layer, hidden.data());
  for (auto& [name, tensor] : kept) variant_.tensors.at(name) = std::move(tensor);
  TQ_TRY(std::move(status));
  return measure(hidden.data());
}

Result<double> Trials::measure(const float* hidden) {
  const int64_t width = original_->spec.hidden, vocabulary = original_->spec.vocabulary;
  TQ_ASSIGN(const HeadWeights head, prepare_head(*original_, *backend_));  // the head is not changed
  std::vector<float> logits[2], rows[2];
  std::vector<double> loss(kChunk);
  double total = 0;
  int64_t measured = 0;
  const int64_t all = sequences_ * length_;
  for (int64_t first = 0; first < all; first += kChunk * stride_) {
    const int64_t count = std::min(kChunk, (all - first + stride_ - 1) / stride_);
    for (int side = 0; side < 2; ++side) {
      const float* states = side == 0 ? hidden : reference_.data();
      rows[side].resize(static_cast<size_t>(count * width));
      logits[side].resize(static_cast<size_t>(count * vocabulary));
      for (int64_t i = 0; i < count; ++i) std::copy_n(states + (first + i * stride_) * width, width, rows[side].data() + i * width);
      forward_head(original_->spec, head, *backend_,
                   {.hidden = rows[side].data(), .tokens = count, .logits = logits[side].data(), .precision = Precision::kFloat},
                   workspace_);
    }
    backend_->training()->divergence({.logits = logits[0].data(),
                                      .reference = logits[1].data(),
                                      .gradient = logits[0].data(),
                                      .loss = loss.data(),
                                      .tokens = count,
                                      .vocabulary = vocabulary});
    for (int64_t i = 0; i < count; ++i) total += loss[static_cast<size_t>(i)];
    measured += count;
  }
  return total / static_cast<double>(measured);
}

}  // namespace tq
