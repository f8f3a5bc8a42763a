// Viterbi runs of the superposition trellis: one thread block a run, `kOwn` neighbouring states a thread (design: docs/grid.md). Eight
// share the most between them; two take the less time for a row where there are too few runs to fill the card.
#pragma once

#include "kernels/cuda/encode/trellis_step.h"

namespace tq::cuda {

struct ViterbiArgs {
  const Run* runs;           // [blocks]
  const float* target;       // [rows] in units of the row's scale
  const float* root_weight;  // [rows]; negative: the row's bits are zero and cost nothing
  const uint8_t* rate;       // [rows]
  TrellisTables tables;
  uint8_t* symbols;     // [rows] the K bits of each row, oldest first
  uint32_t* decisions;  // [blocks, kMostSteps, 2^M] of 4 bits, or 8 when wide
  bool fixed_ends;      // both ends at the states that the symbols beside the run say; else any
};

// What the threads of a block share. Dynamic shared memory: metrics 2 x [2^M] and [2^M / 2] with bits settled; behind the forward pass the
// same bytes hold decisions.
struct RunRows {
  float target[kMostSteps], root_weight[kMostSteps];
  uint8_t rate[kMostSteps], symbol[kMostSteps];
  float older[512];
  uint32_t best[32];
  int best_state[32];
};

template <int kStateBits, int kOwn, bool kWide>
struct Viterbi {
  using Step = TrellisStep<kStateBits, kOwn>;
  static constexpr int kStates = Step::kStates, kThreads = Step::kThreads;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kBufferWords = kStateBits < 8 ? 640 : kStates / 2 * 5;
  static constexpr int kDecisionBits = kWide ? 8 : 4;
  static constexpr int kWordsPerStep = kStates * kDecisionBits / 32;
  static_assert(kThreads >= 32 && kThreads <= 1024);

  // A thread's decisions of a step.
  static __device__ __forceinline__ void store(uint32_t* decisions, int step, uint64_t own) {
    constexpr int kBits = kOwn * kDecisionBits;
    const int at = step * kThreads + static_cast<int>(threadIdx.x);
    if constexpr (kBits == 64) reinterpret_cast<uint64_t*>(decisions)[at] = own;
    else if constexpr (kBits == 32) decisions[at] = static_cast<uint32_t>(own);
    else if constexpr (kBits == 16) reinterpret_cast<uint16_t*>(decisions)[at] = static_cast<uint16_t>(own);
    else reinterpret_cast<uint8_t*>(decisions)[at] = static_cast<uint8_t>(own);
    static_assert(kBits == 64 || kBits == 32 || kBits == 16 || kBits == 8);
  }

  static __device__ int row_of(const Run& run, int step) {
    int row = (run.first + step) % run.ring_rows;
    if (row < 0) row += run.ring_rows;
    return run.ring_begin + row;
  }

  // The state after step `last`, from the symbols there and before.
  static __device__ int state_after(const ViterbiArgs& args, const Run& run, int last) {
    uint32_t state = 0;
    int bits = 0;
    for (int step = last; bits < kStateBits; --step) {
      const int row = row_of(run, step);
      state |= static_cast<uint32_t>(args.symbols[row]) << bits;
      bits += args.rate[row];
    }
    return static_cast<int>(state & (kStates - 1));
  }

  static __device__ void load_rows(const ViterbiArgs& args, const Run& run, RunRows& rows) {
    for (int step = threadIdx.x; step < run.steps; step += kThreads) {
      const int row = row_of(run, step);
      rows.target[step] = args.target[row];
      rows.root_weight[step] = args.root_weight[row];
      rows.rate[step] = args.rate[row];
    }
    for (int i = threadIdx.x; i < 512; i += kThreads) rows.older[i] = args.tables.older[i];
  }

  static __device__ const float* forward(const ViterbiArgs& args, const Run& run, const RunRows& rows, float* metrics, uint32_t* decisions,
                                         int start) {
    float* before = metrics;
    float* after = metrics + kStates;
    float* const least = metrics + 2 * kStates;
    for (int i = 0; i < kOwn; ++i) {
      const int state = static_cast<int>(threadIdx.x) * kOwn + i;
      before[state] = start < 0 || state == start ? 0.0f : kUnreachable;
    }
    float newer[kOwn];
    StepRow row{};
    const int thread = static_cast<int>(threadIdx.x);
    __syncthreads();
    for (int i = 0; i < run.steps; ++i) {
      if (rows.rate[i] != row.rate) {
        row.rate = rows.rate[i], row.merged = args.tables.merged[row.rate], row.older = rows.older + (1 << row.rate);
        for (int s = 0; s < kOwn; ++s) newer[s] = args.tables.newer[row.rate * kStates + thread * kOwn + s];
      }
      row.target = rows.target[i], row.root_weight = rows.root_weight[i];
      if (row.merged > 0) {
        Step::merge(row.merged, before, least, thread);
        __syncthreads();
      }
      const float* from = row.merged > 0 ? least : before;
      store(decisions, i, Step::template choose_any<kDecisionBits>(row, from, after, newer, thread));
      __syncthreads();
      float* swap = before;
      before = after, after = swap;
    }
    return before;
  }

  static __device__ int best_state(const float* metrics, RunRows& rows) {
    uint32_t best = kNoMetric;
    int state = 0;
    for (int i = 0; i < kOwn; ++i) {
      const int s = static_cast<int>(threadIdx.x) * kOwn + i;
      const uint32_t metric = __float_as_uint(metrics[s]);
      if (metric < best) best = metric, state = s;
    }
    for (int distance = 16; distance > 0; distance /= 2) {
      const uint32_t other = __shfl_down_sync(0xffffffffu, best, distance);
      const int other_state = __shfl_down_sync(0xffffffffu, state, distance);
      if (other < best || (other == best && other_state < state)) best = other, state = other_state;
    }
    if (threadIdx.x % 32 == 0) rows.best[threadIdx.x / 32] = best, rows.best_state[threadIdx.x / 32] = state;
    __syncthreads();
    for (int warp = 0; warp < kWarps; ++warp)
      if (rows.best[warp] < best || (rows.best[warp] == best && rows.best_state[warp] < state) || warp == 0)
        best = rows.best[warp], state = rows.best_state[warp];
    return state;
  }

  // Follows the decisions back from `state`, a stretch of them in shared memory at a time. Leaves the symbols of all steps.
  static __device__ void trace_back(const Run& run, RunRows& rows, uint32_t* buffer, const uint32_t* decisions, int state) {
    constexpr int kStretch = kBufferWords / kWordsPerStep;
    for (int end = run.steps; end > 0; end -= kStretch) {
      const int begin = max(0, end - kStretch);
      __syncthreads();
      for (int i = threadIdx.x; i < (end - begin) * kWordsPerStep; i += kThreads) buffer[i] = decisions[begin * kWordsPerStep + i];
      __syncthreads();
      if (threadIdx.x != 0) continue;
      for (int i = end - 1; i >= begin; --i) {
        const int rate = rows.rate[i], bit = state * kDecisionBits;
        const uint32_t u = buffer[(i - begin) * kWordsPerStep + bit / 32] >> bit % 32 & ((1u << kDecisionBits) - 1);
        rows.symbol[i] = static_cast<uint8_t>(state & ((1 << rate) - 1));
        state = static_cast<int>(u) << (kStateBits - rate) | state >> rate;
      }
    }
    __syncthreads();
  }
};

template <int kStateBits, int kOwn, bool kWide>
__global__ void __launch_bounds__(Viterbi<kStateBits, kOwn, kWide>::kThreads) viterbi(ViterbiArgs args) {
  using V = Viterbi<kStateBits, kOwn, kWide>;
  extern __shared__ float metrics[];
  __shared__ RunRows rows;
  const Run run = args.runs[blockIdx.x];
  uint32_t* decisions = args.decisions + static_cast<size_t>(blockIdx.x) * kMostSteps * V::kWordsPerStep;
  V::load_rows(args, run, rows);
  const int start = args.fixed_ends ? V::state_after(args, run, -1) : -1;
  const int end = args.fixed_ends ? V::state_after(args, run, run.steps - 1) : -1;
  __syncthreads();
  const float* last = V::forward(args, run, rows, metrics, decisions, start);
  const int state = end >= 0 ? end : V::best_state(last, rows);
  V::trace_back(run, rows, reinterpret_cast<uint32_t*>(metrics), decisions, state);
  for (int step = run.keep_begin + static_cast<int>(threadIdx.x); step < run.keep_end; step += V::kThreads)
    args.symbols[V::row_of(run, step)] = rows.symbol[step];
}

}  // namespace tq::cuda
