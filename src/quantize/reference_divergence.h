// KL(original || model) of the next token, by the last hidden states of both: the loss of what trains a whole model, and what judges it.
#pragma once

#include "base/context.h"
#include "graph/training_pass.h"
#include "quantize/tuning_text.h"

namespace tq {

class ReferenceDivergence {
 public:
  // original, backend and context must outlive it. Errors: kNoResource; a head that the backend cannot multiply.
  static Result<ReferenceDivergence> create(const Model& original, Backend& backend, const Context& context);

  // The original's last hidden states, [sequences, T, H], in the backend's memory.
  Result<Memory> hidden(std::span<const std::vector<TokenId>> sequences) const;
  // Fills a chunk's losses and gradients. reference: the original's last hidden states of its sequence, [T, H].
  void fill(const LossChunk& chunk, const float* reference);
  // Of the held-out text, nats a token, by domain; `text` is the same at every call. weights: the model's in the backend's memory, or null.
  // Errors: a domain whose KL is no finite number; those of final_hidden.
  Result<std::vector<double>> held_out(const Model& model, const TrainableModel* weights, const TuningText& text);

 private:
  ReferenceDivergence(const Model& original, Backend& backend, const Context& context)
      : original_(&original), backend_(&backend), context_(&context), workspace_(backend) {}
  void logits(const HeadWeights& head, const float* hidden, int64_t tokens, float* logits);

  const Model* original_;
  Backend* backend_;
  const Context* context_;
  HeadWeights head_;           // the original's
  Memory held_out_;            // the original's last hidden states of the held-out text
  Memory logits_, reference_;  // [kLogitsChunk, V]
  Workspace workspace_;
};

// Tokens whose logits exist at a time.
constexpr int64_t kLogitsChunk = 256;

}  // namespace tq
