// What the encoder's kernels look up, and the shape of the trellis around a ring of mixed rates.
#pragma once

#include <array>
#include <vector>

#include "codec/grid/encoder_kernel.h"
#include "codec/grid/grid.h"

namespace tq::grid {

struct RateTables {
  Trellis trellis;  // points into the vectors
  std::vector<float> older, newer, newer_lanes, value, by_state;
};
using TablesByRate = std::array<RateTables, kMaxRate + 1>;

// taps: L >= K values, L <= kMaxWindow.
void build_tables(int rate, const Taps& taps, int lane_bits, RateTables& tables);

// [R] How many bits of history the string needs after each row, around the ring: S_r = max(L_{r+1} - K_{r+1}, S_{r+1} - K_{r+1}).
std::vector<uint8_t> history_bits(const Layout& layout, const TablesByRate& tables);

}  // namespace tq::grid
