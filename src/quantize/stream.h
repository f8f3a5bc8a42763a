// The original model's stream: the hidden states of all calibration sequences, advanced layer by layer, with statistics of what every
// tap point sees.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>

#include "base/context.h"
#include "graph/forward.h"
#include "quantize/gradients.h"
#include "quantize/options.h"
#include "quantize/statistics.h"
#include "quantize/tap_meter.h"
#include "token/tokenizer.h"

namespace tq {

class Stream {
 public:
  // Embeds the sequences, all of equal length. options: the seed of the input rotations (sign_of), and what is wanted beside the second
  // moments. weights: of every token at the tap points; null: all 1. Errors: kNoResource for the hidden states of all of them and for a
  // sequence's way through a layer.
  struct Settings {
    std::span<const std::vector<TokenId>> sequences;
    const QuantizeOptions& options;
    const TokenWeights* weights = nullptr;
  };
  static Result<Stream> create(const Model& model, Backend& backend, const Context& context, const Settings& settings);

  // Runs the next layer over everything. With `statistics`, collects there; nullptr: only advances.
  // Errors: a tensor the backend cannot multiply; kInterrupted.
  Status advance(Statistics* statistics);
  // After the last layer: what the head sees.
  Status measure_head(Statistics& statistics);

 private:
  Stream(const Model& model, Backend& backend, const Context& context, const Settings& settings, Memory hidden);
  TapMeter::Settings meter_settings() const { return {backend_, context_.threads, options_, weights_, length_}; }
  float* hidden_of(int64_t sequence) const { return hidden_.as<float>() + sequence * length_ * model_.spec.hidden; }
  const Model& model_;
  Backend& backend_;
  const Context& context_;
  const QuantizeOptions& options_;
  const TokenWeights* weights_;
  int64_t sequences_, length_, layer_ = 0;
  Memory hidden_;  // [sequences, length, H] floats
  Workspace workspace_;
};

}  // namespace tq
