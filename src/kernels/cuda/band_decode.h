// Planes decoded by the tensor cores: 16 rows of a rate K are a product of a band matrix of taps [16, k] with the bits of k plane rows as
// ±1 [k, columns]. What lies where in the fragments of mma m16n8k16 (PTX ISA, "Matrix Fragments"), for the kernel and its test. Lane 4 g +
// t.
//
// The rows' own plane rows are K whole tiles, since rates change every 32 rows; what their windows take of the rows before is one tile
// more. The order of the 16 slots of k is free, and that of the columns: both are chosen so that a lane finds its bits in two loads of 16
// bytes, and 8 values that it stores together in its sums.
#pragma once

#include <cstdint>

#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

constexpr int kBandRows = 16;  // of the output, at a time

// The plane row of a tile that slot k of an instruction stands for.
TQ_HOST_DEVICE inline int slot_row(int k) { return k % 8 / 2 + 8 * (k % 2) + 4 * (k / 8); }

// Which tap row r of 16 has for a plane row of its tile `step`, 0: the one before its own. Negative, or beyond the window: none.
TQ_HOST_DEVICE inline int band_tap(int rate, int r, int step, int plane_row) {
  return r * rate + rate - 1 - ((step - 1) * kTileRows + plane_row);
}

// Which of a word's 32 columns is column n of the i-th of its four instructions: a lane's sums of all four are 8 columns in turn.
TQ_HOST_DEVICE inline int band_column(int i, int n) { return 8 * (n / 2) + 2 * i + n % 2; }
// A register of operand B of the i-th instruction, for column g: the bits of two slots as halves of 1 or -1. bits: byte g / 2 of the word
// of one slot's plane row in its second byte, of the other's in its fourth.
TQ_HOST_DEVICE inline uint32_t band_halves(uint32_t bits, int i, int g) {
  constexpr uint32_t kSigns = 0x80008000u, kMinusOnes = 0xbc00bc00u;
  return (bits << (7 - 2 * i - g % 2) & kSigns) ^ kMinusOnes;
}

// Whether a matrix can be decoded so: rows `first` .. + count of it.
inline bool decodes_bands(const PlaneJob& job, int columns, int first, int count) {
  if (job.rows % kBandRows != 0 || columns % 8 != 0 || first % kBandRows != 0 || count % kBandRows != 0) return false;
  for (int rate = 1; rate < kRates; ++rate)
    if (job.windows[rate] > rate + kTileRows) return false;
  return true;
}

}  // namespace tq::cuda
