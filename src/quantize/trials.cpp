#include "quantize/trials.h"

#include <algorithm>

#include "graph/backward.h"

namespace tq {
namespace {

constexpr int64_t kChunk = 256;  // positions whose logits exist at a time

Result<Memory> copy_of(const Memory& from, Backend& backend) {
  TQ_ASSIGN(Memory to, backend.allocate(from.bytes()));
  backend.copy(to.as<float>(), from.as<float>(), from.bytes());
  return to;
}

enum Slot : size_t { kRowNumbers = 32, kRows, kLogits, kReference };  // behind those of the layers

}  // namespace

Result<Trials> Trials::create(const Model& original, const Model& base, Backend& backend, const Context& context,
                              std::span<const std::vector<int32_t>> sequences, int64_t stride) {
  TQ_CHECK(!sequences.empty() && backend.training());
  Trials trials(original, base, backend, context);
  trials.sequences_ = static_cast<int64_t>(sequences.size()), trials.length_ = static_cast<int64_t>(sequences[0].size());
  trials.stride_ = stride;
  const ModelSpec& spec = base.spec;
  const int64_t of_sequence = trials.length_ * spec.hidden;
  const auto bytes = static_cast<uint64_t>(trials.sequences_ * of_sequence) * sizeof(float);
  TQ_ASSIGN(const Memory first, backend.allocate(bytes));
  for (size_t i = 0; i < sequences.size(); ++i)
    embed(original, sequences[i], backend, first.as<float>() + static_cast<int64_t>(i) * of_sequence);
  TQ_ASSIGN(trials.reference_, copy_of(first, backend));
  for (int64_t layer = 0; layer < spec.layers_count(); ++layer) TQ_TRY(trials.advance(original, layer, trials.reference_.as<float>()));
  TQ_ASSIGN(const Memory hidden, copy_of(first, backend));
  for (int64_t layer = 0; layer <= spec.layers_count(); ++layer) {
    TQ_ASSIGN(Memory state, copy_of(hidden, backend));
    trials.states_.push_back(std::move(state));
    if (layer < spec.layers_count()) TQ_TRY(trials.advance(base, layer, hidden.as<float>()));
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
  const Stretch whole{.tokens = length_};
  for (int64_t i = 0; i < sequences_; ++i) {
    if (context_->stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    forward_layer(model.spec, layer, weights, *backend_,
                  {.hidden = hidden + i * length_ * model.spec.hidden,
                   .stretches = {&whole, 1},
                   .kv = cache.layer(layer),
                   .precision = training_precision(model.spec)},
                  workspace_);
  }
  return {};
}

Result<double> Trials::divergence(const Changes& changes) {
  std::map<std::string, PackedTensor> kept;
  for (const auto& [name, tensor] : changes) kept[name] = std::exchange(variant_.tensors.at(name), *tensor);
  const int64_t first = first_layer(changes);
  auto hidden = copy_of(states_[static_cast<size_t>(first)], *backend_);
  Status status;
  if (!hidden) status = Unexpected(hidden.error());
  for (int64_t layer = first; layer < variant_.spec.layers_count() && status; ++layer)
    status = advance(variant_, layer, hidden->as<float>());
  for (auto& [name, tensor] : kept) variant_.tensors.at(name) = std::move(tensor);
  TQ_TRY(std::move(status));
  return measure(hidden->as<float>());
}

// Every stride-th of the rows from `first` on, [count, H].
const float* Trials::every_stride(const float* states, int64_t first, int64_t count) {
  const int64_t width = original_->spec.hidden;
  std::vector<int32_t> row;
  for (int64_t i = 0; i < count; ++i) row.push_back(static_cast<int32_t>(first + i * stride_));
  float* numbers = workspace_.floats(kRowNumbers, count);
  float* rows = workspace_.floats(kRows, count * width);
  backend_->upload(numbers, row.data(), row.size() * sizeof(int32_t));
  backend_->gather({.input = states, .row = reinterpret_cast<const int32_t*>(numbers), .output = rows, .count = count, .width = width});
  return rows;
}

Result<double> Trials::measure(const float* hidden) {
  const int64_t vocabulary = original_->spec.vocabulary;
  TQ_ASSIGN(const HeadWeights head, prepare_head(*original_, *backend_));  // the head is not changed
  std::vector<double> loss(kChunk);
  double total = 0;
  int64_t measured = 0;
  const int64_t all = sequences_ * length_;
  for (int64_t first = 0; first < all; first += kChunk * stride_) {
    const int64_t count = std::min(kChunk, (all - first + stride_ - 1) / stride_);
    float* logits[2];
    for (int side = 0; side < 2; ++side) {
      logits[side] = workspace_.floats(side == 0 ? kLogits : kReference, count * vocabulary);
      forward_head(original_->spec, head, *backend_,
                   {.hidden = every_stride(side == 0 ? hidden : reference_.as<float>(), first, count),
                    .tokens = count,
                    .logits = logits[side],
                    .precision = Precision::kTraining},
                   workspace_);
    }
    backend_->training()->divergence({.logits = logits[0],
                                      .reference = logits[1],
                                      .gradient = logits[0],
                                      .loss = loss.data(),
                                      .tokens = count,
                                      .vocabulary = vocabulary});
    for (int64_t i = 0; i < count; ++i) total += loss[static_cast<size_t>(i)];
    measured += count;
  }
  return total / static_cast<double>(measured);
}

}  // namespace tq
