// The rounding loop: columns in order, each rounded to the grid with the fed-back error of those before it.
#pragma once

#include <vector>

#include "base/cpu.h"
#include "codec/grid/grid.h"
#include "quantize/objective.h"
#include "quantize/rates.h"

namespace tq {

struct RoundRequest {
  const float* weight = nullptr;  // [R, C] in the original basis
  int64_t rows = 0, columns = 0;
  const uint8_t* sign = nullptr;  // the rotation of the tap point
  const Objective* objective = nullptr;
  std::span<const uint8_t> rates;  // [ceil(R / 32)]
  const grid::TapsByRate* taps = nullptr;
  Isa isa = Isa::kGeneric;
};

struct Rounded {
  Buffer<uint8_t> bits;             // grid::Layout::bytes()
  std::vector<uint16_t> row_scale;  // f16 [R]
  double error = 0;                 // tr(E H E^T)
  double energy = 0;                // tr(W H W^T)
};

// One thread. The same result on every machine of the same instruction set.
Rounded round_to_grid(const RoundRequest& request);

}  // namespace tq
