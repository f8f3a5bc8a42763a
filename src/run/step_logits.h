// The logits of a step's last rows, and what sequences make of them.
#pragma once

#include "graph/network.h"
#include "run/sequence.h"

namespace tq {

// A device keeps the logits and sends the largest of each row; whole rows only where a sequence cannot choose from these.
class StepLogits {
 public:
  explicit StepLogits(Network& network) : network_(&network) {}

  // Of hidden states [sequences, H] in the backend's memory: row i is what sequence i goes on from.
  void compute(const float* states, std::vector<Sequence*> sequences, Precision precision);
  // The next token of sequence `row`, and what it makes of that.
  Event next(size_t row, int64_t context, RequestStats& stats);

 private:
  // Of its logits, how many of the largest come from a device; 0: all of them are wanted.
  int64_t wanted(const Sequence& sequence) const;
  int64_t vocabulary() const { return network_->model().spec.vocabulary; }

  Network* network_;
  std::vector<Sequence*> sequences_;
  std::vector<float> whole_;          // the host's [sequences, V], or a row of a device
  const float* on_device_ = nullptr;  // [sequences, V]
  int64_t count_ = 0;
  std::vector<RankState> states_;  // [sequences]
  std::vector<Ranked> ranked_;     // [sequences, count]
};

}  // namespace tq
