#include "codec/grid/encoder_tables.h"

#include <algorithm>

namespace tq::grid {
namespace {

// The sums +-taps[first] +- … +- taps[first + count - 1] of every pattern; bit i of the pattern is the sign of taps[first + i].
std::vector<float> window_values(const Taps& taps, int first, int count) {
  std::vector<float> values(size_t{1} << count);
  values[0] = 0.0f;
  for (int j = 0; j < count; ++j) {
    const size_t half = size_t{1} << j;
    const float tap = taps[static_cast<size_t>(first + j)];
    for (size_t i = 0; i < half; ++i) {
      values[i + half] = values[i] + tap;
      values[i] -= tap;
    }
  }
  return values;
}

}  // namespace

void build_tables(int rate, const Taps& taps, int lane_bits, RateTables& tables) {
  const int window = static_cast<int>(taps.size()), state_bits = window - rate;
  tables.newer = window_values(taps, 0, state_bits);
  tables.older = window_values(taps, state_bits, rate);
  tables.newer_lanes = tables.newer;
  const int lanes = 1 << lane_bits;
  if (state_bits >= lane_bits)
    for (size_t base = 0; base < tables.newer.size(); base += static_cast<size_t>(lanes))
      for (int lane = 0; lane < lanes; ++lane)
        tables.newer_lanes[base + static_cast<size_t>(lane)] = tables.newer[base + static_cast<size_t>(lane_order(lane, rate, lane_bits))];
  tables.trellis = {rate, state_bits, tables.older.data(), tables.newer.data(), tables.newer_lanes.data(), nullptr, nullptr};
  if (!tables.trellis.whole()) return;
  tables.value = tables.by_state = window_values(taps, 0, window);
  for (size_t w = 0; w < tables.value.size(); ++w)
    tables.by_state[(w & ((size_t{1} << state_bits) - 1)) << rate | w >> state_bits] = tables.value[w];
  tables.trellis.value = tables.value.data();
  tables.trellis.by_state = tables.by_state.data();
}

std::vector<uint8_t> history_bits(const Layout& layout, const TablesByRate& tables) {
  const int64_t rows = layout.rows;
  std::vector<uint8_t> bits(static_cast<size_t>(rows), 0);
  for (int64_t i = 2 * rows - 1 + kMaxWindow; i >= 0; --i) {  // the second lap closes the ring; short rings need more laps
    const size_t row = static_cast<size_t>(i % rows), next = static_cast<size_t>((i + 1) % rows);
    const int rate = layout.rate[next];
    bits[row] = static_cast<uint8_t>(std::max(tables[static_cast<size_t>(rate)].trellis.state_bits, std::max(bits[next] - rate, 0)));
  }
  return bits;
}

}  // namespace tq::grid
