// Numbers of the grid's products that more than the kernels themselves count with (graph/footprint.h). Plain constants, for C++ and CUDA.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tq {

// Bits a weight from which on activations are rounded to 15 bits, on any processor, where the file does not say.
constexpr double kFineActivationRate = 4.75;

namespace cuda {

// A tile of planes (cuda/plane_types.h).
constexpr int kTileRows = 16;
constexpr int kGroupColumns = 256;  // of a tile; they share a scale of the activations
constexpr int kTileBytes = 512;

constexpr int kMaxTokens = 8;       // of one launch, activations as bits
constexpr int kMaxLoadGroups = 16;  // of a slice of 4 or 8 tokens, or where there are several

constexpr int kManyTokens = 32;       // of one launch, activations as bytes
constexpr int kManyWords = 32 << 10;  // of a slice's activations at most, in shared memory
constexpr int kBandRows = 16;         // that tensor cores decode together; matrices of other numbers of rows are not decoded so
constexpr int kBandTokens = 128;      // of one launch, where planes are decoded in registers
// The tokens that such a launch has places for.
inline int band_form(int64_t tokens) { return tokens <= 32 ? 32 : tokens <= 64 ? 64 : tokens <= 96 ? 96 : kBandTokens; }
constexpr int kBandSums = 2 * 256;  // rows of its sums that thread blocks have in common with others, of each

// Up to so many tokens planes are multiplied without being decoded to memory; where bands cannot be decoded in registers, up to the latter.
// rows: of a product, all its matrices'. Of few rows every thread block has a part of a set, and all of these are added up.
inline int64_t band_tokens(int64_t rows) {
  constexpr int64_t kWideRows = 6144;
  return rows < kWideRows ? 128 : 192;
}
constexpr int64_t kBandlessTokens = 32;
constexpr int64_t kMostDecoded = int64_t{64} << 20;  // weights at a time, with more tokens
// Rows of a matrix that are decoded at a time at most: kMostDecoded weights, in multiples of 128 rows.
inline int64_t strip_rows(int64_t rows, int64_t columns) {
  constexpr int64_t kMultiple = 128;
  return std::min(rows, std::max(kMultiple, kMostDecoded / columns / kMultiple * kMultiple));
}
// Strips of matrices that read the same input are decoded in turns, each of kMostDecoded values at most: whether one of so many values
// begins a turn. turn: values of the one that goes on, 0 before the first; it becomes that of the strip.
inline bool begins_turn(int64_t& turn, int64_t values) {
  const bool begins = turn == 0 || turn + values > kMostDecoded;
  turn = begins ? values : turn + values;
  return begins;
}

}  // namespace cuda
}  // namespace tq
