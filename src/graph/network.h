// A whole model, ready to run.
#pragma once

#include "graph/forward.h"

namespace tq {

class Network {
 public:
  // The model and the backend must outlive it. Errors: a tensor that the backend cannot multiply, by name.
  static Result<Network> create(const Model& model, Backend& backend, ThreadPool& threads);

  struct Args {
    std::span<const int32_t> tokens;  // [T]
    int64_t first_position = 0;
    int64_t sequence_length = 0;  // see ForwardArgs
    KvCache* cache = nullptr;
    Precision precision = Precision::kInt8;
  };
  // The hidden states after the last layer, [T, H]; valid until the next call.
  const float* forward(const Args& args);
  // logits[T, vocabulary] of hidden states [T, H]
  void head(const float* hidden, int64_t tokens, float* logits, Precision precision = Precision::kInt8);

  const Model& model() const { return *model_; }
  // Bytes of weights that producing one token reads.
  uint64_t bytes_per_token() const;
  const std::vector<LayerWeights>& layers() const { return layers_; }
  const HeadWeights& head_weights() const { return head_; }

 private:
  Network(const Model& model, Backend& backend, ThreadPool& threads) : model_(&model), backend_(&backend), threads_(&threads) {}
  const Model* model_;
  Backend* backend_;
  ThreadPool* threads_;
  std::vector<LayerWeights> layers_;
  HeadWeights head_;
  Workspace workspace_;
  Buffer<float> hidden_;
};

}  // namespace tq
