// The trellis of a batch of matrices on the device: plain data, for C++ and CUDA.
//
// All matrices of a batch stand one below the other: "row" is a row of that stack, and each matrix is a ring of its own. Every rate's taps
// are padded with zeros to L = M + K, M the state bits of the batch, which changes no value: so all rows have the same states whatever
// their rate. A window is state_before << K | the row's K bits; its newest M bits are the state after the row, its oldest K the choice u of
// the predecessor. The value of a window splits into newer[state after] + older[u]. Of u the bits that only zeros weigh, the oldest, are
// settled first, once for all states that come from there: M bits more than a rate needs cost it no branches.
#pragma once

#include <cstdint>

namespace tq::cuda {

constexpr int kManyStates = 8, kFewStates = 2;  // of a thread
constexpr int kLeastStateBits = 6;              // a block is at least a warp of kFewStates
constexpr int kMostStateBits = 12;
constexpr int kMostSteps = 512;   // rows of one run
constexpr int kTrellisRates = 9;  // rates 0 (unused) to 8
constexpr int kWindowTaps = 24;

// One Viterbi run: `steps` rows of a ring from `first` on, wrapping round. Rows [keep_begin, keep_end) of the run are written.
struct Run {
  int32_t ring_begin, ring_rows;  // rows of the stack that are the ring
  int32_t first, steps;           // first: within the ring
  int32_t keep_begin, keep_end;
};

// Tables of the rates that occur. older: [2^K] from offset 2^K on, so that all rates share one array of 512.
struct TrellisTables {
  const float* newer;     // [rates, 2^M]
  const float* older;     // [512]
  const float* taps;      // [rates, kWindowTaps], in the order of the format
  const int32_t* window;  // [rates] L as stored: taps beyond it do not exist
  const int32_t* merged;  // [rates] bits of the choice that are settled first
};

}  // namespace tq::cuda
