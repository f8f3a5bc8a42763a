// What lies where in the fragments by which tensor cores decode bands (bands.cuh), for the kernels and their test: 16 rows of a rate K are
// a product of the bits of K + 1 rows of tiles with a band matrix of taps.
//
// The rows' own plane rows are K whole tiles, since rates change every 32 rows; what their windows take of the rows before is one tile
// more. Eight rows take from fewer tiles: those of each half of a band are multiplied by themselves.
#pragma once

#include <cstdint>

#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

// Which tap row r of 16 has for a plane row of its tile `tile`, 0: the one before its own. Negative, or beyond the window: none.
TQ_HOST_DEVICE constexpr int band_tap(int rate, int r, int tile, int plane_row) {
  return r * rate + rate - 1 - ((tile - 1) * kTileRows + plane_row);
}
// The first of the tiles that rows 8 `half` + 0..7 take from, and how many these are, with windows of up to rate + 16.
TQ_HOST_DEVICE constexpr int band_first_tile(int rate, int half) { return half * rate / 2; }
TQ_HOST_DEVICE constexpr int band_taken_tiles(int rate) { return (rate + 1) / 2 + 1; }

// Of words that were turned (transposed 8 x 8 as 16 bits each): lane 4 g + t has of word x of a tile (plane rows 0..7) rows 2 t and 2 t +
// 1, of word y 8 more, and of each 16 bits of half its group's columns: bit b is this column.
TQ_HOST_DEVICE constexpr int band_column(int half, int g, int bit) { return 128 * half + 16 * g + bit; }

// Where column `column` lies in a row of decoded halves and of the input that is multiplied with them. What lanes g have of half a group
// are two times 8 columns; first of all of them the first 8, so that a warp writes whole lines at once.
TQ_HOST_DEVICE constexpr int half_place(int column, int columns) {
  if (columns % 16 != 0) return column;
  const int half = column / 128 * 128, lanes = columns - half < 128 ? (columns - half) / 16 : 8;
  return half + column % 16 / 8 * (8 * lanes) + column % 128 / 16 * 8 + column % 8;
}

// Whether a matrix's bands can be decoded: windows reach no further than one tile before their own, and taps are halves.
inline bool has_bands(const PlaneJob& job) {
  if (job.rows % kBandRows != 0 || !job.takes_bands) return false;
  for (int rate = 1; rate < kRates; ++rate)
    if (job.windows[rate] > rate + kTileRows) return false;
  return true;
}
// Whether a matrix can be decoded so: rows `first` .. + count of it.
inline bool decodes_bands(const PlaneJob& job, int columns, int first, int count) {
  return has_bands(job) && columns % 8 == 0 && first % kBandRows == 0 && count % kBandRows == 0;
}

}  // namespace tq::cuda
