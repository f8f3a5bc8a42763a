#include "quantize/reference_divergence.h"

#include <algorithm>
#include <cmath>

namespace tq {

Result<ReferenceDivergence> ReferenceDivergence::create(const Model& original, Backend& backend, const Context& context) {
  ReferenceDivergence out(original, backend, context);
  TQ_ASSIGN(out.head_, prepare_head(original, backend));
  for (Memory* memory : {&out.logits_, &out.reference_}) {
    TQ_ASSIGN(*memory, backend.allocate(static_cast<uint64_t>(kLogitsChunk * original.spec.vocabulary) * sizeof(float)));
  }
  return out;
}

Result<Memory> ReferenceDivergence::hidden(std::span<const std::vector<TokenId>> sequences) const {
  return final_hidden(*original_, *backend_, *context_, sequences);
}

void ReferenceDivergence::logits(const HeadWeights& head, const float* hidden, int64_t tokens, float* logits) {
  forward_head(original_->spec, head, *backend_, {.hidden = hidden, .tokens = tokens, .logits = logits, .precision = Precision::kTraining},
               workspace_);
}

void ReferenceDivergence::fill(const LossChunk& chunk, const float* reference) {
  logits(head_, reference + chunk.first * original_->spec.hidden, chunk.tokens, reference_.as<float>());
  backend_->training()->divergence({.logits = chunk.logits,
                                    .reference = reference_.as<float>(),
                                    .gradient = chunk.gradient,
                                    .loss = chunk.loss,
                                    .tokens = chunk.tokens,
                                    .vocabulary = original_->spec.vocabulary});
}

Result<std::vector<double>> ReferenceDivergence::held_out(const Model& model, const TrainableModel* weights, const TuningText& text) {
  if (held_out_.empty()) {
    TQ_ASSIGN(held_out_, hidden(text.held_out));
  }
  TQ_ASSIGN(const Memory states, final_hidden(model, *backend_, *context_, text.held_out, weights));
  HeadWeights prepared;
  if (!weights) {
    TQ_ASSIGN(prepared, prepare_head(model, *backend_));
  }
  const HeadWeights& head = weights ? weights->head : prepared;
  const auto length = static_cast<int64_t>(text.held_out.at(0).size()), floats = length * original_->spec.hidden;
  std::vector<double> sum(text.domains.size()), count(text.domains.size()), loss(static_cast<size_t>(kLogitsChunk));
  for (size_t i = 0; i < text.held_out.size(); ++i)
    for (int64_t first = 0; first < length; first += kLogitsChunk) {
      if (context_->stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      const int64_t tokens = std::min(kLogitsChunk, length - first), begin = static_cast<int64_t>(i) * floats;
      logits(head, states.as<float>() + begin + first * original_->spec.hidden, tokens, logits_.as<float>());
      fill({.first = first, .tokens = tokens, .logits = logits_.as<float>(), .gradient = logits_.as<float>(), .loss = loss.data()},
           held_out_.as<float>() + begin);
      for (int64_t t = 0; t < tokens; ++t) sum[text.domain[i]] += loss[static_cast<size_t>(t)];
      count[text.domain[i]] += static_cast<double>(tokens);
    }
  for (size_t i = 0; i < sum.size(); ++i) {
    sum[i] /= count[i];
    if (!std::isfinite(sum[i]))
      return fail(ErrorCode::kFailed, "tuning: the KL on held-out text of {} is no finite number; --tune off leaves the model as rounded",
                  text.domains[i]);
  }
  return sum;
}

}  // namespace tq
