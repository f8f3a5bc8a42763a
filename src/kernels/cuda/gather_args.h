// Arguments of the gather over several cards. Plain data, for C++ and CUDA.
#pragma once

#include <vector_types.h>

#include <cstdint>

namespace tq::cuda {

constexpr int kMaxParts = 8;
// Floats that a part sends at most in one go: more is copied by the copy engines.
constexpr int64_t kMaxSent = int64_t{1} << 18;
constexpr int64_t kSentSlots = kMaxSent / 2;  // of two floats and two flags
constexpr int kMailboxes = 2;                 // used in turn

// What one card does in a gather (docs/kernels.md, "Several GPUs"). Every float travels with a flag that says which gather it is of, so
// that one write over the link brings both. mailbox[j]: part j's memory, [kMailboxes][parts][kSentSlots] slots.
struct GatherArgs {
  int parts = 0, part = 0;
  int tokens = 0, width = 0;       // of the whole matrix
  int bounds[kMaxParts + 1] = {};  // columns of each part
  const float* own = nullptr;      // [tokens][own columns], or the gate
  const float* up = nullptr;       // with a gate: sent is activation(gate) * up
  int gate_kind = 0;
  float* whole = nullptr;  // [tokens][width], of this part
  uint4* mailbox[kMaxParts] = {};
  uint32_t* state = nullptr;  // of this part: number of the last gather; thread blocks that are done, zero between launches
};

}  // namespace tq::cuda
