// What the tile kernels of all instruction sets share. Include in their files only.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/cpu/tile/tile_kernels.h"

namespace tq::cpu {
namespace {

constexpr int64_t kMostNibbles = (31 * grid::kMaxRate + grid::kMaxWindow + 6) / 4 + 1;

inline int64_t floor_of_4(int64_t x) { return x >> 2; }

// The aligned groups of four plane rows that a tile touches, from `first` on; groups may lie before the ring's seam.
struct NibbleRange {
  int64_t start, first, count;  // start: the oldest plane row of the first row's window
  explicit NibbleRange(const TileSource& source) {
    start = source.newest - source.taps->window + 1;
    first = floor_of_4(start);
    count = floor_of_4(source.newest + (source.rows - 1) * source.taps->rate) - first + 1;
  }
};

// nibbles[n][column]: bit b is the string's bit at plane row 4 (first + n) + b, for 32 columns from `line` on. Any place in the ring.
inline void fill_nibbles(const TileSource& source, const NibbleRange& range, int64_t line, uint8_t (*nibbles)[32]) {
  for (int64_t n = 0; n < range.count; ++n) {
    std::memset(nibbles[n], 0, 32);
    for (int64_t b = 0; b < 4; ++b) {
      int64_t row = (4 * (range.first + n) + b) % source.plane_rows;
      if (row < 0) row += source.plane_rows;
      const int bit = grid::Layout::bit_of(row);
      const uint8_t* bytes = source.bits + ((row / grid::kLineRows) * source.lines + line) * grid::kLineBytes + row % 16 * 4;
      const int64_t columns = 4 * std::min<int64_t>(8, source.lines - line);
      for (int64_t k = 0; k < columns; ++k)
        nibbles[n][k] |= static_cast<uint8_t>((bytes[k / 4 * grid::kLineBytes + k % 4] >> bit & 1) << b);
    }
  }
}

inline int16_t word_of(const StreamView& high, const StreamView& low, bool is_pair, int64_t column) {
  return static_cast<int16_t>(is_pair ? high.values[column] * 128 + low.values[column] : high.values[column]);
}

// [columns / q][kTokens][q], q columns of 4 bytes.
template <int kTokens>
void pack_lanes(TileElement element, const TilePacking& packing) {
  const PlaneInput& input = *packing.input;
  const bool is_pair = input.streams_per_token() == 2;
  for (int64_t lane = 0; lane < kTokens; ++lane) {
    uint8_t* out = packing.values + 4 * lane;
    const int64_t token = packing.first + lane, q = element == TileElement::kInt16 ? 2 : 4;
    if (token >= input.tokens()) {
      for (int64_t k = 0; k < packing.columns; k += q, out += 4 * kTokens) std::memset(out, 0, 4);
      continue;
    }
    const StreamView high = input.stream(token, 0), low = input.stream(token, is_pair ? 1 : 0);
    for (int64_t k = 0; k < packing.columns; k += q, out += 4 * kTokens) {
      if (q == 4) {
        std::memcpy(out, high.values + k, 4);
      } else {
        const int16_t two[2] = {word_of(high, low, is_pair, k), word_of(high, low, is_pair, k + 1)};
        std::memcpy(out, two, 4);
      }
    }
  }
}

inline void write_rows(const TileOutput& args) {
  for (int64_t t = 0; t < args.tokens; ++t)
    for (int64_t r = 0; r < args.rows; ++r) args.output[t * args.stride + r] = args.sums[t * kTileRows + r] * args.scale[r] + args.bias[r];
}

// Kernels that multiply one block and tile at a time.
template <typename Multiply>
void for_blocks(const TileProduct& product, int64_t tokens, Multiply multiply) {
  for (int64_t tile = 0; tile < product.tiles; ++tile) {
    TileProduct one = product;
    one.panel += tile * product.tile_bytes, one.sums += tile * product.tile_sums;
    for (int64_t block = 0; block < product.blocks; ++block) {
      multiply(one);
      one.input += product.input_bytes, one.scale += product.scale_stride, one.offset += product.scale_stride;
      one.sums += tokens * kTileRows;
    }
  }
}

}  // namespace
}  // namespace tq::cpu
