// Bit planes on the device: the layout, how a product is split among warps, and the arguments of the kernels. Plain data, for C++ and CUDA.
//
// A tile is 128 plane rows x 32 columns, 512 bytes in the order of the int8 tensor-core fragments (mma m16n8k32, A operand): lane
// 4 g + t holds four words, the bits of plane rows (g, g + 8, g, g + 8) and columns (4 t, 4 t, 16 + 4 t, 16 + 4 t) + 0..3. A word's byte
// is a column; bit j of the byte belongs to plane row 16 j + (g or g + 8). So the slice `word & 0x01010101 << j` is an operand as it is,
// of value 2^j. Tiles follow each other along the columns (padded to 256 with zeros), then come the next 128 plane rows.
#pragma once

#include <cstdint>

#include "kernels/cuda/dense_args.h"

#ifdef __CUDACC__
#define TQ_HOST_DEVICE __host__ __device__
#else
#define TQ_HOST_DEVICE
#endif

namespace tq::cuda {

constexpr int kTileRows = 128;
constexpr int kTileColumns = 32;
constexpr int kTileBytes = 512;
constexpr int kGroupTiles = 8;  // 256 columns share a scale of the activations
constexpr int kGroupColumns = kGroupTiles * kTileColumns;
constexpr int kMaxJobs = 4;    // matrices that one launch multiplies with the same input
constexpr int kMaxTokens = 8;  // of one launch
constexpr int kUnitTiles = 2;  // tiles that a warp takes at least
constexpr int kMaxTaps = 24;
constexpr int kFilterRows = 64;  // rows of a thread block of the filter: two ranges of one rate
constexpr int kRates = 9;        // rates 0 (unused) to 8

// The word of a 64-byte line of the file (128 plane rows x 4 columns, word i: plane rows 16 j + i) that stands as word `part` of a lane.
struct LineWord {
  int line;  // of the tile's 8, along the columns
  int word;  // of the line's 16
};
TQ_HOST_DEVICE inline LineWord fragment_word(int lane, int part) { return {lane % 4 + 4 * (part / 2), lane / 4 + 8 * (part % 2)}; }

// Columns [first, first + tiles) of a part of K; parts are whole groups.
struct Slice {
  int first_tile = 0, tiles = 0;
};

// How the tiles of a launch are shared out. The columns are cut into slices, each with its own thread blocks; within a slice, every warp
// takes a stretch of tiles in row-major order. A block of 128 plane rows is finished by one or several neighbouring warps: each writes its
// own partial sums, and the consumer adds them in the order of the warps, so that results do not depend on timing. The products below
// stay within 32 bits, of which the planner makes sure.
struct Split {
  int groups = 0;  // of 256 columns
  int slices = 1;
  int blocks = 0;  // of 128 plane rows, over all jobs
  int warps_per_slice = 0;
  int slots_per_slice = 0;  // partial sums of a block and slice, at most

  TQ_HOST_DEVICE Slice slice(int index) const {
    const int begin = groups * index / slices, end = groups * (index + 1) / slices;
    return {begin * kGroupTiles, (end - begin) * kGroupTiles};
  }
  TQ_HOST_DEVICE uint32_t units(const Slice& part) const {
    return static_cast<uint32_t>(blocks) * static_cast<uint32_t>(part.tiles / kUnitTiles);
  }
  TQ_HOST_DEVICE uint32_t workers(const Slice& part) const {
    const uint32_t all = units(part);
    return all < static_cast<uint32_t>(warps_per_slice) ? all : static_cast<uint32_t>(warps_per_slice);
  }
  // The first unit of a worker; that of worker `workers` is the end.
  TQ_HOST_DEVICE uint32_t first_unit(const Slice& part, uint32_t worker) const { return units(part) * worker / workers(part); }
  TQ_HOST_DEVICE uint32_t worker_of(const Slice& part, uint32_t unit) const { return ((unit + 1) * workers(part) - 1) / units(part); }
  TQ_HOST_DEVICE uint32_t first_worker(const Slice& part, int block) const {
    return worker_of(part, static_cast<uint32_t>(block) * static_cast<uint32_t>(part.tiles / kUnitTiles));
  }
  TQ_HOST_DEVICE uint32_t last_worker(const Slice& part, int block) const {
    return worker_of(part, static_cast<uint32_t>(block + 1) * static_cast<uint32_t>(part.tiles / kUnitTiles) - 1);
  }
};

// Activations as int8 columns. Up to 4 tokens: two columns each, x = scale * (128 high + low), 15 bits; up to 8: one, x = scale * value.
// words: [tiles][columns][4][2]; word (t, h) holds the columns 16 h + 4 t + 0..3 of the tile.
struct Activations {
  uint32_t* words = nullptr;
  float* scales = nullptr;  // [groups][tokens of the form, see form_tokens]
  float* sums = nullptr;    // [groups][tokens of the form]: of the rounded values, times the scale
};

// The forms of activations: MMA columns 2, 4 or 8 with two columns a token, or 8 with one.
struct Form {
  int columns = 2;
  bool is_pair = true;
  TQ_HOST_DEVICE int tokens() const { return is_pair ? columns / 2 : columns; }
};
inline Form form_of(int tokens) {
  if (tokens <= 1) return {2, true};
  if (tokens <= 2) return {4, true};
  return {8, tokens <= 4};
}

struct QuantizeArgs {
  InputArgs input;                // rows of C values, after its prologue
  const uint8_t* sign = nullptr;  // packed
  int tokens = 0, columns = 0, hadamard = 0;
  Form form;
  Activations output;
};

struct ProductArgs {
  const void* tiles[kMaxJobs] = {};
  int first_block[kMaxJobs + 1] = {};  // of the jobs in the launch; behind the last, the number of all
  int jobs = 0;
  Split split;
  Activations input;
  float* partial = nullptr;  // [slices * slots][tokens of the form][blocks * 128]
};

// Rows of one matrix from its partial sums: the FIR over the taps, the row scale, the bias.
struct FilterJob {
  const uint8_t* rate = nullptr;        // [ceil(R / 32)]
  const int32_t* newest = nullptr;      // [ceil(R / 32)] plane row of the newest bit of the range's first row
  const uint16_t* row_scale = nullptr;  // f16 [R]
  const float* taps = nullptr;          // [kRates][kMaxTaps]; the slot behind a rate's last tap is zero
  const float* bias = nullptr;          // [R] or null
  float* output = nullptr;              // [T, R]
  int rows = 0, plane_rows = 0;
  int first_row_block = 0;   // of kFilterRows rows, in the launch
  int windows[kRates] = {};  // taps of each rate
};

struct FilterArgs {
  FilterJob job[kMaxJobs];
  int first_block[kMaxJobs + 1] = {};
  int jobs = 0, row_blocks = 0, tokens = 0, form_tokens = 0;
  Split split;
  const float* partial = nullptr;
  const float* sums = nullptr;
  bool adds = false;  // output += instead of =
};

}  // namespace tq::cuda
