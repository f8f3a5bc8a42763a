// What the threads of a Viterbi run do for one row, between two barriers. For the device, and for tests that have none.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cuda/encode/trellis.h"

#ifdef __CUDACC__
#define TQ_STEP __device__ __forceinline__
#define TQ_STEP_UNROLL(count) _Pragma(TQ_STEP_TEXT(unroll count))
#define TQ_STEP_TEXT(text) #text
#else
#define TQ_STEP inline
#define TQ_STEP_UNROLL(count)
#endif

namespace tq::cuda {

constexpr float kUnreachable = 1e30f;
constexpr uint32_t kNoMetric = 0x7fffffffu;

TQ_STEP uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
TQ_STEP float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
TQ_STEP uint32_t lower(uint32_t a, uint32_t b) { return a < b ? a : b; }

// A row of the run.
struct StepRow {
  int rate, merged;
  float target, root_weight;
  const float* older;  // [2^K]
};

// `kOwn` neighbouring states a thread. Metrics are not negative, so that they compare as integers, and what is chosen takes the place of
// their last bits: 2^-20 of the metric for three of them.
template <int kStateBits, int kOwn>
struct TrellisStep {
  static constexpr int kStates = 1 << kStateBits;
  static constexpr int kThreads = kStates / kOwn;

  // least[q] = min over v of before[v, q], v the oldest bits of a state, which stand in the last bits of the result.
  template <int kMerged>
  static TQ_STEP void merge_bits(const float* before, float* least, int thread) {
    constexpr int kKept = kStates >> kMerged;
    constexpr uint32_t kMask = (1u << kMerged) - 1;
    for (int q = thread; q < kKept; q += kThreads) {
      uint32_t best = kNoMetric;
      TQ_STEP_UNROLL((1 << kMerged))
      for (uint32_t v = 0; v <= kMask; ++v) best = lower(best, (bits_of(before[static_cast<int>(v) * kKept + q]) & ~kMask) | v);
      least[q] = float_of(best);
    }
  }
  static TQ_STEP void merge(int merged, const float* before, float* least, int thread) {
    if (merged == 1) merge_bits<1>(before, least, thread);
    else if (merged == 2) merge_bits<2>(before, least, thread);
    else if (merged == 3) merge_bits<3>(before, least, thread);
    else if (merged == 4) merge_bits<4>(before, least, thread);
    else merge_bits<5>(before, least, thread);
  }

  // after[s] = min over u of from[u, s] + (root (newer[s] + older[u] - target))^2 for the thread's states; from: metrics before the row, or
  // `least` where some bits of u are settled, and 2^kFree choices left. kShared: neighbours that have the same predecessors.
  // Returns the choices u, each in kDecisionBits.
  template <int kDecisionBits, int kFree, int kShared>
  static TQ_STEP uint64_t choose(const StepRow& row, const float* from, float* after, const float (&newer)[kOwn], int thread) {
    constexpr int kChoices = 1 << kFree;
    constexpr uint32_t kMask = kChoices - 1;
    const bool is_zero = row.root_weight < 0.0f;
    const float root = is_zero ? 0.0f : row.root_weight;
    float distance[kOwn];
    uint32_t best[kOwn];
    TQ_STEP_UNROLL(kOwn)
    for (int i = 0; i < kOwn; ++i) distance[i] = root * (newer[i] - row.target), best[i] = kNoMetric;
    const int first = thread * kOwn, stride = kStates >> row.rate;
    const float* source = from + (first >> row.rate);
    TQ_STEP_UNROLL((kFree <= 4 ? kChoices : 8))
    for (int u = 0; u < kChoices; ++u) {
      const float choice = root * row.older[u];
      TQ_STEP_UNROLL(kOwn)
      for (int i = 0; i < kOwn; ++i) {
        const float error = distance[i] + choice;
        const float metric = error * error + source[u * stride + i / kShared];
        best[i] = lower(best[i], (bits_of(metric) & ~kMask) | static_cast<uint32_t>(u));
      }
    }
    uint64_t decisions = 0;
    TQ_STEP_UNROLL(kOwn)
    for (int i = 0; i < kOwn; ++i) {
      uint32_t choice = best[i] & kMask;
      if (row.merged > 0) choice |= (bits_of(source[static_cast<int>(choice) * stride + i / kShared]) & ((1u << row.merged) - 1)) << kFree;
      decisions |= static_cast<uint64_t>(choice) << kDecisionBits * i;
      const bool is_closed = is_zero && ((first + i) & ((1 << row.rate) - 1)) != 0;
      after[first + i] = is_closed ? kUnreachable : float_of(best[i] & ~kMask);
    }
    return decisions;
  }

  template <int kDecisionBits>
  static TQ_STEP uint64_t choose_any(const StepRow& row, const float* from, float* after, const float (&newer)[kOwn], int thread) {
    const int free = row.rate - row.merged;
    if constexpr (kOwn > 2) {
      if (row.rate == 1) {
        if (free == 1) return choose<kDecisionBits, 1, 2>(row, from, after, newer, thread);
        return choose<kDecisionBits, 0, 2>(row, from, after, newer, thread);
      }
    }
    if constexpr (kOwn == 8) {
      if (row.rate == 2) {
        if (free == 2) return choose<kDecisionBits, 2, 4>(row, from, after, newer, thread);
        if (free == 1) return choose<kDecisionBits, 1, 4>(row, from, after, newer, thread);
        return choose<kDecisionBits, 0, 4>(row, from, after, newer, thread);
      }
    }
    if (free == 0) return choose<kDecisionBits, 0, kOwn>(row, from, after, newer, thread);
    if (free == 1) return choose<kDecisionBits, 1, kOwn>(row, from, after, newer, thread);
    if (free == 2) return choose<kDecisionBits, 2, kOwn>(row, from, after, newer, thread);
    if (free == 3) return choose<kDecisionBits, 3, kOwn>(row, from, after, newer, thread);
    if constexpr (kDecisionBits == 4) return choose<kDecisionBits, 4, kOwn>(row, from, after, newer, thread);
    else {
      if (free == 4) return choose<kDecisionBits, 4, kOwn>(row, from, after, newer, thread);
      if (free == 5) return choose<kDecisionBits, 5, kOwn>(row, from, after, newer, thread);
      if (free == 6) return choose<kDecisionBits, 6, kOwn>(row, from, after, newer, thread);
      if (free == 7) return choose<kDecisionBits, 7, kOwn>(row, from, after, newer, thread);
      return choose<kDecisionBits, 8, kOwn>(row, from, after, newer, thread);
    }
  }
};

}  // namespace tq::cuda

#undef TQ_STEP
#undef TQ_STEP_UNROLL
#undef TQ_STEP_TEXT
