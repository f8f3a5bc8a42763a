// The trellis of a batch in host memory: how many states, and the tables of the rates that occur.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/encode/trellis.h"
#include "kernels/device_quantizer.h"

namespace tq::cuda {

struct HostTrellis {
  int state_bits = kLeastStateBits;
  bool is_wide = false;  // a row may have more than 4 bits
  float clamp = 0.0f;    // of targets
  std::vector<float> newer, older, taps;
  std::vector<int32_t> window, merged;
  std::string error;  // or empty

  explicit HostTrellis(const RoundBatch& batch) {
    bool used[kTrellisRates] = {};
    for (const RoundMatrix& matrix : batch.matrices)
      for (int64_t r = 0; r < matrix.rows; ++r) used[matrix.rate[r]] = true;
    for (int rate = 1; rate < kTrellisRates; ++rate)
      if (used[rate]) add_states(rate, static_cast<int>(batch.taps[rate].size()));
    if (!error.empty()) return;
    const size_t states = size_t{1} << state_bits;
    newer.resize(kTrellisRates * states), older.resize(512), taps.resize(kTrellisRates * kWindowTaps);
    window.resize(kTrellisRates), merged.resize(kTrellisRates);
    for (int rate = 1; rate < kTrellisRates; ++rate)
      if (used[rate]) add_rate(rate, batch.taps[rate]);
  }

 private:
  // A state has the bits before a row, and a row's own too, since those are shifted out of it.
  void add_states(int rate, int window_bits) {
    if (window_bits - rate > kMostStateBits) error = "windows of more than 12 bits beyond the rate";
    constexpr int kBuilt[] = {6, 8, 9, 10, 12};  // what kernels are built for
    const int needed = std::max({state_bits, window_bits - rate, rate});
    for (const int built : kBuilt)
      if (built >= needed) {
        state_bits = built;
        return;
      }
  }

  void add_rate(int rate, const std::vector<float>& row) {
    is_wide |= rate > 4;
    std::vector<float> padded(row);
    padded.resize(static_cast<size_t>(state_bits + rate), 0.0f);
    fill(padded.data(), state_bits, newer.data() + (static_cast<size_t>(rate) << state_bits));
    fill(padded.data() + state_bits, rate, older.data() + (size_t{1} << rate));
    std::copy(row.begin(), row.end(), taps.begin() + rate * kWindowTaps);
    window[static_cast<size_t>(rate)] = static_cast<int32_t>(row.size());
    merged[static_cast<size_t>(rate)] = static_cast<int32_t>(merged_bits(rate, state_bits + rate - static_cast<int>(row.size())));
    float sum = 0.0f;
    for (const float tap : row) sum += std::fabs(tap);
    clamp = std::max(clamp, 8.0f * sum);
  }

  // Merging m bits of the choice takes 2^m comparisons a state that is left, and leaves 2^(K - m) choices: as many as have no tap, about
  // half.
  static int merged_bits(int rate, int untapped) { return std::min({untapped, rate, (rate + 3) / 2}); }

  static void fill(const float* c, int bits, float* out) {
    for (uint32_t word = 0; word < 1u << bits; ++word) out[word] = window_sum(word, c, bits);
  }
  static float window_sum(uint32_t word, const float* c, int bits) {
    float sum = 0.0f;
    for (int j = 0; j < bits; ++j) sum += word >> j & 1 ? c[j] : -c[j];
    return sum;
  }
};

}  // namespace tq::cuda
