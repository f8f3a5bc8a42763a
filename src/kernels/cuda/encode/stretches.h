// How the rings of a batch are cut into stretches that are searched side by side, and what that costs. For the host alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/encode/trellis.h"

namespace tq::cuda {

constexpr int kJunctionRows = 48;  // searched again on each side of a junction
constexpr int kOverlapRows = 24;   // beyond a stretch, so that its ends are as good as its middle
constexpr int64_t kMostStretch = kMostSteps - 2 * kOverlapRows - 64;
constexpr int64_t kBusyWarps = 12;  // of a multiprocessor, which keep it busy with eight states a thread

// Rows of the shortest stretch, given the state bits: by the loss against long ones, which is below 0.01 dB (lab/cuda-encoder).
constexpr int64_t least_stretch(int state_bits) { return state_bits <= 6 ? 64 : state_bits <= 8 ? 96 : 2 * kJunctionRows + 32; }

// Stretches of the rings, and their junctions.
struct Runs {
  int64_t stretch_rows, least;  // of a stretch
  std::vector<Run> stretches = {}, junctions = {};

  int64_t stretches_of(int64_t rows) const {
    return std::min((rows + stretch_rows - 1) / stretch_rows, std::max<int64_t>(1, rows / least));
  }
  static int64_t margin_of(int64_t rows) { return std::min<int64_t>(kJunctionRows, (rows - 8) / 2); }  // rows: of a stretch
  void add(int32_t ring_begin, int32_t ring_rows) {
    const auto count = static_cast<int32_t>(stretches_of(ring_rows));
    const auto margin = static_cast<int32_t>(margin_of(ring_rows / count));
    for (int32_t i = 0; i < count; ++i) {
      const auto begin = static_cast<int32_t>(int64_t{ring_rows} * i / count),
                 end = static_cast<int32_t>(int64_t{ring_rows} * (i + 1) / count);
      stretches.push_back(
          {ring_begin, ring_rows, begin - kOverlapRows, end - begin + 2 * kOverlapRows, kOverlapRows, kOverlapRows + end - begin});
      junctions.push_back({ring_begin, ring_rows, begin - margin, 2 * margin, 0, 2 * margin});
    }
  }
};

// The states that a thread takes of those asked for: a thread block has 32 to 1024 threads.
constexpr int states_of_thread(int state_bits, int own) {
  if (own == kManyStates) return state_bits < 8 ? kFewStates : kManyStates;
  return state_bits == 12 ? 2 * kFewStates : kFewStates;
}

// What searching a batch costs.
struct SearchCost {
  int state_bits;
  int64_t processors;                // of the card
  std::vector<int32_t> merged = {};  // TrellisTables::merged
  int64_t rows_of_rate[kTrellisRates] = {};

  // Of a thread. The order of what is compared is the same, and so are the bytes.
  int own_states(int64_t runs) const {
    const int64_t warps = runs * ((int64_t{1} << state_bits) / kManyStates / 32);
    return warps < kBusyWarps * processors ? kFewStates : kManyStates;
  }

  // Rows of a stretch: what takes the least time, given how many runs then stand side by side.
  int64_t choose_stretch(std::span<const int64_t> rows) const {
    constexpr double kTraceCycles = 50;  // of a row on the way back, by one thread
    int64_t best = 0;
    double least = 0;
    const int64_t shortest = least_stretch(state_bits);
    for (int64_t stretch = shortest; stretch <= kMostStretch; stretch += 16) {
      const Runs runs{stretch, shortest};
      int64_t count = 0;
      for (const int64_t each : rows) count += runs.stretches_of(each);
      const auto steps = static_cast<double>(stretch + 2 * kOverlapRows + 2 * Runs::margin_of(stretch));
      const double cycles = steps * (row_cycles(count) + kTraceCycles);
      if (best == 0 || cycles < least) best = stretch, least = cycles;
    }
    return best;
  }

  // About the cycles in which so many runs side by side take a row on their way forward: what one alone waits for, or what the
  // instructions of those that share a multiprocessor take.
  double row_cycles(int64_t runs) const {
    constexpr double kBarrierCycles = 100, kCyclesOfInstruction = 1.5, kSchedulers = 4;
    const int own = states_of_thread(state_bits, own_states(runs));
    const double warps = static_cast<double>(int64_t{1} << state_bits) / own / 32, instructions = row_instructions(own);
    const auto side_by_side = static_cast<double>((runs + processors - 1) / processors);
    return std::max(kBarrierCycles + kCyclesOfInstruction * instructions, side_by_side * warps * instructions / kSchedulers);
  }

  // Of a thread, the mean over the rows' rates (trellis_step.h).
  double row_instructions(int own) const {
    double sum = 0;
    int64_t all = 0;
    for (int rate = 1; rate < kTrellisRates; ++rate) {
      all += rows_of_rate[rate];
      const int joined = merged[static_cast<size_t>(rate)];
      const double merging = joined > 0 ? 3 * std::max(own, 1 << joined) + 5 * own : 0;
      sum += static_cast<double>(rows_of_rate[rate]) * (45 + 7 * own + merging + (1 << (rate - joined)) * (2 + 4 * own));
    }
    return sum / static_cast<double>(all);
  }
};

}  // namespace tq::cuda
