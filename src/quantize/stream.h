// The original model's stream: the hidden states of all calibration sequences, advanced layer by layer, with the second moments of what
// every tap point sees.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>

#include "base/context.h"
#include "graph/forward.h"
#include "quantize/statistics.h"
#include "token/tokenizer.h"

namespace tq {

using Moments = std::map<std::string, SecondMoment>;  // by tap point

class Stream {
 public:
  // Embeds the sequences, all of equal length.
  Stream(const Model& model, Backend& backend, const Context& context, std::span<const std::vector<TokenId>> sequences);

  // Runs the next layer over everything. With `moments`, collects there; nullptr: only advances.
  // Errors: a tensor the backend cannot multiply; kInterrupted.
  Status advance(Moments* moments);
  // After the last layer: what the head sees.
  Status head_moment(Moments& moments);
  int64_t next_layer() const { return layer_; }

 private:
  const Model& model_;
  Backend& backend_;
  const Context& context_;
  int64_t sequences_, length_, layer_ = 0;
  Buffer<float> hidden_;  // [sequences, length, H]
  Workspace workspace_;
};

}  // namespace tq
