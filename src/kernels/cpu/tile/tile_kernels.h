// Integer products of many tokens with grid matrices (design: the grid, section 5, "CPU prefill"). 32 rows at a time are rebuilt as
// integers W' = s_r unit w, w by table look-ups along the bit strings, four bits a look-up; then a matrix product over all tokens with
// the activations that decoding uses, and float sums over groups of 256 columns.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "codec/grid/grid.h"
#include "kernels/cpu/plane/plane_input.h"

namespace tq::cpu {

constexpr int64_t kTileRows = 32;     // rows of a tile: they share a rate
constexpr int64_t kPanelRows = 16;    // rows that lie together: a line of a panel is 16 rows times 4 bytes of columns
constexpr int64_t kTileColumns = 32;  // columns are decoded in multiples of it
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
  int64_t first_line = 0, end_line = 0;  // those to decode, from a multiple of 16 on
};

// How the weights of a panel lie, C' = columns decoded, padded to 32. Of one byte: w / 32, rounded; what rounding costs is measured in the
// tests.
enum class TileElement : uint8_t {
  kInt8,    // [C' / 4][16 rows][4] of w / 32 + 128
  kInt16,   // [C' / 2][16 rows][2] of w
  kSigned,  // [C' / 4][16 rows][4] of w / 32
  kSplit,   // [C' / 4][2][16 rows][4]: high, then low of w = 32 high + low
};
constexpr bool is_bytes(TileElement element) { return element == TileElement::kInt8 || element == TileElement::kSigned; }
constexpr int64_t bytes_of(TileElement element) { return is_bytes(element) ? 1 : 2; }

// Activations of one block in the order in which `multiply` reads them: token after token from `first` on, zeros behind the last.
struct TilePacking {
  const PlaneInput* input = nullptr;
  int64_t first = 0;
  int64_t columns = 0;  // padded
  uint8_t* values = nullptr;
};

// Some blocks of tokens times some panels of some tiles.
struct TileProduct {
  const uint8_t* panel = nullptr;  // at the first of the columns
  int64_t panel_bytes = 0;         // from one panel to the next
  int64_t tiles = 0;
  int64_t tile_bytes = 0;           // from one tile's panel to the next one's
  const uint8_t* input = nullptr;   // packed, at the first of the columns
  const float* scale = nullptr;     // [columns / 256][tokens of the kernel]
  const int32_t* offset = nullptr;  // [columns / 256][tokens], -128 times the sum of the activations
  int64_t blocks = 0;
  int64_t input_bytes = 0;   // of a block
  int64_t scale_stride = 0;  // from one block's scales and offsets to the next one's
  int64_t columns = 0;       // a multiple of the kernel's, beginning at one of 256
  int64_t flush = 0;         // columns whose sum is exact in 32 bits: 256, or 32 for kInt16 with activations of 15 bits
  float* sums = nullptr;     // [tiles][blocks][tokens][32], added to; at the panel's first row
  int64_t tile_sums = 0;     // from one tile's to the next one's
};

// output[t][r] = sums[t][r] * scale[r] + bias[r] for the rows of a tile.
struct TileOutput {
  const float* sums = nullptr;  // [tokens][32]
  int64_t tokens = 0, rows = 0;
  const float* scale = nullptr;  // [32]
  const float* bias = nullptr;   // [32]
  float* output = nullptr;       // at the tile's first row
  int64_t stride = 0;            // from one token to the next
};

struct TileKernels {
  int tokens;              // of a block
  int panels;              // that one call of multiply takes
  int columns = 32;        // panels and input are padded to a multiple
  int tiles = 1;           // of a band: decoded before they are multiplied
  TileElement element[2];  // that multiply takes with activations of 8 bits, and of 15
  void (*decode)(const TileSource& source, TileElement element, uint8_t* panels, int64_t panel_bytes);
  void (*pack)(TileElement element, const TilePacking& packing);
  void (*multiply)(TileElement element, const TileProduct& product);
  void (*write)(const TileOutput& output);
  // Around the products of a thread, where the processor has a state for them; or null.
  void (*begin)() = nullptr;
  void (*end)() = nullptr;
  const char* name[2];  // as element
};

const TileKernels& tile_kernels(Isa isa);

}  // namespace tq::cpu
