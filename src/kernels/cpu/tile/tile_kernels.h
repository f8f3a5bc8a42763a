// Integer products of many tokens with grid matrices (design: the grid, section 5, "CPU prefill"). 32 rows at a time are rebuilt as
// integers W' = s_r unit w, w by table look-ups along the bit strings, four bits a look-up; then a matrix product over all tokens with
// the activations that decoding uses, and float sums over groups of 256 columns.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "codec/grid/grid.h"

namespace tq::cpu {

constexpr int64_t kTileRows = 32;     // rows of a tile: they share a rate
constexpr int64_t kPanelRows = 16;    // rows that lie together: a line of a panel is 16 rows times 4 bytes of columns
constexpr int64_t kTileColumns = 32;  // columns of a tile are padded to a multiple
constexpr int kMaxNibbles = 7;
constexpr int32_t kLargestWeight = 3952;  // 127 * 32 less what the low parts of seven look-ups may come to

// The FIR as look-ups: w = sum over the aligned groups of four plane rows that the window touches, 32 high + low. The table depends on
// the window's place in its first group. |w| <= kLargestWeight and every partial sum of low and of high fits a byte.
struct TapTable {
  int rate = 0, window = 0;
  float unit = 0;       // value of the integer 1
  int nibbles[4] = {};  // groups that a window touches
  alignas(16) int8_t low[4][kMaxNibbles][16] = {};
  alignas(16) int8_t high[4][kMaxNibbles][16] = {};
};
TapTable make_tap_table(const grid::Taps& taps, int64_t rate);

// Up to 32 rows of one rate.
struct TileSource {
  const uint8_t* bits = nullptr;  // of the matrix
  int64_t lines = 0;              // padded columns / 4
  int64_t plane_rows = 0;
  int64_t newest = 0;  // plane row of the first row's newest bit
  int64_t rows = 0;
  const TapTable* taps = nullptr;
};

// kInt16: w. kInt8: w / 32, rounded; what rounding costs is measured in the tests.
enum class TileElement : uint8_t { kInt8, kInt16 };

// Two panels of [C' / q][16 rows][q], q = 2 or 4 columns, C' = columns padded to 32. kInt8: plus 128.
struct TileProduct {
  const uint8_t* panel = nullptr;   // at the first of the columns
  int64_t panel_bytes = 0;          // from one panel to the next
  const uint8_t* input = nullptr;   // [columns / q][tokens of the kernel][q]
  const float* scale = nullptr;     // [columns / 256][tokens]
  const int32_t* offset = nullptr;  // kInt8: [columns / 256][tokens], -128 times the sum of the activations
  int64_t columns = 0;              // a multiple of 32, beginning at one of 256
  int64_t flush = 0;                // columns whose sum is exact in 32 bits: 256, or 32 with activations of 15 bits
  float* sums = nullptr;            // [tokens][32], added to; at the panel's first row
};

struct TileKernels {
  int tokens;     // of a register block
  int panels;     // that one call of multiply takes
  bool has_int8;  // multiply knows kInt8
  void (*decode)(const TileSource& source, TileElement element, uint8_t* panels, int64_t panel_bytes);
  void (*multiply)(TileElement element, const TileProduct& product);
  const char* name[2];  // by TileElement
};

const TileKernels& tile_kernels(Isa isa);

}  // namespace tq::cpu
