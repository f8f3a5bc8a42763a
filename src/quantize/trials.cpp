#include "quantize/trials.h"

#include <algorithm>
#include <numeric>

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
                              std::span<const std::vector<int32_t>> sequences, int64_t stride, const std::set<int64_t>& starts) {
  TQ_CHECK(!sequences.empty() && backend.training());
  Trials trials(original, base, backend, context);
  trials.sequences_ = static_cast<int64_t>(sequences.size()), trials.length_ = static_cast<int64_t>(sequences[0].size());
  trials.stride_ = stride;
  TQ_TRY(trials.reserve());
  const ModelSpec& spec = base.spec;
  const int64_t of_sequence = trials.length_ * spec.hidden;
  const auto bytes = static_cast<uint64_t>(trials.sequences_ * of_sequence) * sizeof(float);
  TQ_ASSIGN(const Memory first, backend.allocate(bytes));
  for (size_t i = 0; i < sequences.size(); ++i)
    embed(original, sequences[i], backend, first.as<float>() + static_cast<int64_t>(i) * of_sequence);
  TQ_ASSIGN(trials.reference_, copy_of(first, backend));
  for (int64_t layer = 0; layer < spec.layers_count(); ++layer) TQ_TRY(trials.advance(original, layer, trials.reference_.as<float>()));
  TQ_ASSIGN(const Memory hidden, copy_of(first, backend));
  const int64_t last = starts.empty() ? spec.layers_count() : *starts.rbegin();
  for (int64_t layer = 0; layer <= last; ++layer) {
    if (starts.empty() || starts.contains(layer)) {
      TQ_ASSIGN(trials.states_[layer], copy_of(hidden, backend));
    }
    if (layer < last) TQ_TRY(trials.advance(base, layer, hidden.as<float>()));
  }
  return trials;
}

// Short sequences go together where pages can be named on the host.
int64_t Trials::together() const { return backend_->is_host() ? std::clamp<int64_t>(kTogetherTokens / length_, 1, sequences_) : 1; }

Status Trials::reserve() {
  const ModelSpec& spec = variant_.spec;
  const int64_t positions = std::min(kChunk, (sequences_ * length_ + stride_ - 1) / stride_);
  TQ_TRY(workspace_.reserve(forward_floats(spec, together() * length_, positions)));
  TQ_TRY(workspace_.reserve(kRowNumbers, positions));
  TQ_TRY(workspace_.reserve(kRows, positions * spec.hidden));
  TQ_TRY(workspace_.reserve(kLogits, positions * spec.vocabulary));
  return workspace_.reserve(kReference, positions * spec.vocabulary);
}

std::set<int64_t> Trials::changed_layers(const Changes& changes) const {
  const ModelSpec& spec = variant_.spec;
  std::set<int64_t> out;
  for (int64_t layer = 0; layer < spec.layers_count(); ++layer)
    for (const Block& block : spec.layers[static_cast<size_t>(layer)])
      for (const Linear* linear : linears(block))
        if (changes.contains(linear->name + ".weight")) out.insert(layer);
  return out;
}

Status Trials::advance(const Model& model, int64_t layer, float* hidden) {
  TQ_ASSIGN(const LayerWeights weights, prepare_layer(model, layer, *backend_));
  const ModelSpec& spec = variant_.spec;
  const int64_t most = together();
  const int64_t pages = (length_ + kPageTokens - 1) / kPageTokens;
  TQ_ASSIGN(const KvCache cache,
            KvCache::create(*backend_, spec, {.type = KvType::kF32, .pages = most * pages, .capacity = length_}, layer, layer + 1));
  std::vector<int32_t> page(static_cast<size_t>(most * pages));
  std::iota(page.begin(), page.end(), 0);
  std::vector<Stretch> stretches;
  for (int64_t i = 0; i < most; ++i) stretches.push_back({.tokens = length_, .pages = most > 1 ? page.data() + i * pages : nullptr});
  for (int64_t i = 0; i < sequences_; i += most) {
    if (context_->stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    forward_layer(spec, layer, weights, *backend_,
                  {.hidden = hidden + i * length_ * spec.hidden,
                   .stretches = std::span<const Stretch>(stretches).first(static_cast<size_t>(std::min(most, sequences_ - i))),
                   .kv = cache.layer(layer),
                   .precision = training_precision(spec)},
                  workspace_);
  }
  return {};
}

Status Trials::advance_changed(const Changes& changes, int64_t layer, float* hidden) {
  std::map<std::string, PackedTensor> kept;
  for (const auto& [name, tensor] : changes) kept[name] = std::exchange(variant_.tensors.at(name), *tensor);
  Status status = advance(variant_, layer, hidden);
  for (auto& [name, tensor] : kept) variant_.tensors.at(name) = std::move(tensor);
  return status;
}

Result<double> Trials::divergence(const Changes& changes) {
  const int64_t layers = variant_.spec.layers_count();
  const std::set<int64_t> changed = changed_layers(changes);
  if (changed.empty()) return measure(states_.at(layers).as<float>());
  const int64_t first = *changed.begin();
  TQ_ASSIGN(const Memory hidden, copy_of(states_.at(first), *backend_));
  for (int64_t layer = first; layer < layers; ++layer)
    TQ_TRY(changed.contains(layer) ? advance_changed(changes, layer, hidden.as<float>()) : advance(variant_, layer, hidden.as<float>()));
  return measure(hidden.as<float>());
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
