// The loss whose squared gradients are the Fisher information: -log p of labels drawn from p itself (Kunstner et al. 2019).
#pragma once

#include <cstdint>

#include "graph/training_pass.h"

namespace tq {

class DrawnLabels {
 public:
  // The draws depend on the seed and on the sequences' places, which count from first_sequence.
  DrawnLabels(Backend& backend, const ModelSpec& spec, uint64_t seed, int64_t first_sequence)
      : backend_(backend), vocabulary_(spec.vocabulary), seed_(seed), first_sequence_(first_sequence) {}

  // A TrainingPassArgs::loss.
  void loss(int64_t sequence, const LossChunk& chunk) const;

 private:
  Backend& backend_;
  int64_t vocabulary_;
  uint64_t seed_;
  int64_t first_sequence_;
};

}  // namespace tq
