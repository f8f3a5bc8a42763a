// The forward pass: layer by layer over stretches of sequences. A walker of ModelSpec.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "graph/kv_cache.h"
#include "graph/weights.h"

namespace tq {

// Sees the input of the linears of a tap point: input [T, C], in the backend's memory. For mixtures, the tokens routed to one
// expert (expert >= 0).
using TapSink = std::function<void(const std::string& tap, const float* input, int64_t tokens, int64_t columns, int64_t expert)>;

// Memory of the backend that a forward pass needs; grows once, then stays.
class Workspace {
 public:
  explicit Workspace(Backend& backend) : backend_(&backend) {}
  // A region of `count` floats, one per slot; valid until the slot is asked for again. Memory for it must be there, or be reserved before.
  float* floats(size_t slot, int64_t count);
  // Errors: kNoResource.
  Status reserve(size_t slot, int64_t count);
  // The same of the slots from the first on, a count for each.
  Status reserve(const std::vector<int64_t>& counts);

 private:
  Backend* backend_;
  std::vector<Memory> slots_;
};

struct ForwardArgs {
  float* hidden = nullptr;             // [T, H], updated in place
  std::span<const Stretch> stretches;  // of different sequences
  KvView kv;                           // of this layer
  Precision precision = Precision::kInt8;
  const TapSink* taps = nullptr;
  std::string_view last_tap;  // with taps: nothing behind this tap point is computed, and hidden is undefined afterwards; empty: everything
};
// Of the layers, where gradients are taken or compared with their like: kTraining, but kFloat for mixtures, where rounding would send
// tokens near the border to other experts.
Precision training_precision(const ModelSpec& spec);
void forward_layer(const ModelSpec& spec, int64_t layer, const LayerWeights& weights, Backend& backend, const ForwardArgs& args,
                   Workspace& workspace);

// Slot by slot, what forward_layer() of up to `rows` tokens and forward_head() of up to `head_rows` have of a workspace.
std::vector<int64_t> forward_floats(const ModelSpec& spec, int64_t rows, int64_t head_rows);

// The frequencies that positions of a sequence of this length are rotated by.
const std::vector<float>& rotary_frequencies(const Rope& rope, int64_t length);
// Whether some layer rotates positions of a sequence of this length by the frequencies of long ones.
bool rotates_as_long(const ModelSpec& spec, int64_t length);

// hidden[T, H] = embedding rows of the tokens, scaled. Every id must lie within the vocabulary.
void embed(const Model& model, std::span<const int32_t> tokens, Backend& backend, float* hidden);

// logits[T, vocabulary] of hidden[T, H]; hidden is not changed.
struct HeadArgs {
  const float* hidden = nullptr;
  int64_t tokens = 0;
  float* logits = nullptr;
  Precision precision = Precision::kInt8;
  const TapSink* taps = nullptr;
};
void forward_head(const ModelSpec& spec, const HeadWeights& weights, Backend& backend, const HeadArgs& args, Workspace& workspace);

}  // namespace tq
