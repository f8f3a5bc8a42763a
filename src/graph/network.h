// A whole model, ready to run.
#pragma once

#include "graph/forward.h"

namespace tq {

// Rows of a pass, at most, for those that run long texts: a card counts tokens in a dimension of its grids that ends at 65535, and what a
// pass works in grows with them. Measured against nothing.
constexpr int64_t kLongestPass = 8192;

// Tokens of prompts in a pass that has others' answers too, unless the caller says otherwise: those who answer wait for it. A card decodes
// every weight once a pass, whatever has come.
constexpr int64_t kHostPromptChunk = 512, kDevicePromptChunk = 1024;
inline int64_t usual_prompt_chunk(const Backend& backend) { return backend.is_host() ? kHostPromptChunk : kDevicePromptChunk; }

class Network {
 public:
  // The model and the backend must outlive it. Errors: a tensor that the backend cannot multiply, by name.
  static Result<Network> create(const Model& model, Backend& backend);

  // A stretch of the one sequence of a cache.
  struct Args {
    std::span<const int32_t> tokens;  // [T]
    int64_t first_position = 0;
    int64_t sequence_length = 0;  // see Stretch
    KvCache* cache = nullptr;
    Precision precision = Precision::kInt8;
  };
  // Rows of several sequences at once. The stretches cover the tokens, each is of another sequence.
  struct BatchArgs {
    std::span<const int32_t> tokens;  // [T]
    std::span<const Stretch> stretches;
    KvCache* cache = nullptr;
    Precision precision = Precision::kInt8;
  };
  // Bounds of calls to come.
  struct Size {
    int64_t rows = 0;       // of a pass
    int64_t head_rows = 0;  // whose logits are asked for at once
    int64_t capacity = 0;   // of the cache
    Precision precision = Precision::kInt8;
    bool has_own_logits = true;  // logits lie in the network's memory and may be ranked; false: in the caller's alone
  };
  // Takes the memory that calls within these bounds need, so that none of them needs more. Without it they take it as they need it, and end
  // the program where there is none. Errors: kNoResource.
  Status reserve(const Size& size);
  // The hidden states after the last layer, [T, H], in the backend's memory; valid until the next call of one of the two.
  const float* forward(const Args& args);
  const float* forward_batch(const BatchArgs& args);
  // The most likely next token after one hidden state [H], in the backend's memory. Its logits stay there, until the next call.
  struct Choice {
    int32_t token;
    const float* logits;  // [vocabulary]
  };
  Choice choose(const float* hidden, Precision precision = Precision::kInt8);
  // logits[T, vocabulary] of hidden states [T, H], both in the backend's memory; the second in memory that is valid until the next call.
  void logits(const float* hidden, int64_t tokens, float* logits, Precision precision = Precision::kInt8);
  const float* logits(const float* hidden, int64_t tokens, Precision precision = Precision::kInt8);
  // logits[T, vocabulary], in the host's memory, of hidden states [T, H] in the backend's.
  void head(const float* hidden, int64_t tokens, float* logits, Precision precision = Precision::kInt8);

  const Model& model() const { return *model_; }
  Backend& backend() const { return *backend_; }
  // Bytes of weights that producing one token reads.
  uint64_t bytes_per_token() const;
  const std::vector<LayerWeights>& layers() const { return layers_; }
  const HeadWeights& head_weights() const { return head_; }
  // Where a layer, or behind the last one the head, lies in the model, for Backend::enter_depth.
  double depth_of(int64_t layer) const { return depths_[static_cast<size_t>(layer)]; }

 private:
  uint64_t recording(const BatchArgs& args, const float* hidden) const;
  Network(const Model& model, Backend& backend) : model_(&model), backend_(&backend), workspace_(backend) {}
  const Model* model_;
  Backend* backend_;
  std::vector<LayerWeights> layers_;
  HeadWeights head_;
  std::vector<double> depths_;  // of the layers and the head, for Backend::enter_depth
  bool has_mixture_ = false;    // routes are chosen on the host, so that a pass cannot be recorded
  Workspace workspace_;
};

}  // namespace tq
