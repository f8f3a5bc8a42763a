// The inner loops of the encoder, one table of functions per instruction set. Plain pointers only: the files that fill the tables are
// compiled for their instruction set, so they must not share inline functions with the rest of the program.
//
// Names: K rate, L window, S = L - K state bits. A state is the newest S bits of the string, the newest in bit 0. A branch appends K bits:
// its window W (L bits) has the new state s' in its low S bits and u, the K oldest bits, above; it comes from the state W >> K. The best
// way into s' is M'(s') = min over u of M(W >> K) + e^2 with e = root_weight * (value[W] - target), computed in one of two ways:
//   S >= kSplitBits or K < kSplitBits: value = older[u] + newer[s'], e = root_weight * older[u] + (root_weight * newer[s'] - offset);
//   otherwise ("whole")  : e = root_weight * value[W] - offset;   offset = root_weight * target, the differences in brackets fused.
// Which u it was is not kept: the trace back evaluates the 2^K branches of the one state it is at again.
//
// Every set computes the same floats: e^2 + M is fused, and the minimum does not depend on its order. (The generic set fuses in double;
// its second rounding can differ once in 2^29 operations, and matters only if that decides between two paths.)
#pragma once

#include <cstdint>

namespace tq::grid {

constexpr int kSplitBits = 4;

struct Trellis {
  int rate = 0;
  int state_bits = 0;
  const float* older = nullptr;        // [2^K]
  const float* newer = nullptr;        // [2^S]
  const float* newer_lanes = nullptr;  // [2^S] in the order of the kernel's lanes, see lane_order
  const float* value = nullptr;        // [2^L], whole trellises only
  const float* by_state = nullptr;     // [2^S][2^K] the same transposed

  bool whole() const { return state_bits < kSplitBits && rate >= kSplitBits; }
};

struct Kernel {
  int lane_bits;  // vectors of 2^lane_bits floats
  // One row of the trellis: after[s'] from before[s]. Both [2^S], not overlapping; 15 floats behind `before` must be readable.
  void (*forward)(const Trellis&, float target, float root_weight, const float* before, float* after);
  // The window of the best branch into `state`, ties to the lowest u.
  uint32_t (*trace)(const Trellis&, float target, float root_weight, const float* before, uint32_t state);
  // Subtracts the least metric from all.
  void (*normalise)(float* metrics, int64_t count);
};

// Vectors of `lane_bits` > K hold their new states with the K newest bits as the upper bits of the lane number, so that one repeated
// load gives the predecessors. Returns the new state (relative to the vector's first) of a lane.
constexpr int lane_order(int lane, int rate, int lane_bits) {
  if (rate >= lane_bits) return lane;
  const int predecessors = 1 << (lane_bits - rate);
  return (lane % predecessors) << rate | lane / predecessors;
}

const Kernel& generic_kernel();
#if defined(__x86_64__)
const Kernel& avx2_kernel();
const Kernel& avx512_kernel();
#endif

}  // namespace tq::grid
