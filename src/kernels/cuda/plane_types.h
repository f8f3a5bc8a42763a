// Bit planes on the device: the layout, how a product is split among thread blocks, and the arguments of the kernels. Plain data, for C++
// and CUDA.
//
// A tile is 16 plane rows x 256 columns, 512 bytes in the order of the binary tensor-core fragments (mma m16n8k256, A operand): lane
// 4 g + t holds four words, those of plane rows (g, g + 8, g, g + 8) and of columns 32 (t, t, t + 4, t + 4) + 0..31, column 0 in the
// lowest bit. Tiles follow each other along the columns (padded to 256 with zeros), then come the next 16 plane rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "kernels/cuda/dense_args.h"
#include "kernels/plane_sizes.h"

#ifdef __CUDACC__
#define TQ_HOST_DEVICE __host__ __device__
#else
#define TQ_HOST_DEVICE
#endif

namespace tq::cuda {

constexpr int kMaxJobs = 4;          // matrices that one launch multiplies with the same input
constexpr int kInvariantTokens = 4;  // of one launch where every token has the same bits in every batch: the form of four, whole or not
constexpr int kMaxTaps = 24;
constexpr int kRangeRows = 32;       // rows that share a rate
constexpr int kRates = 9;            // rates 0 (unused) to 8
constexpr int kProductWarps = 16;    // of a thread block
constexpr int kWarpGroups = 4;       // that a warp multiplies
constexpr int kMaxRoundGroups = 32;  // of a slice of up to two tokens

// The word of a tile of plane row `row` and columns 32 `word` + 0..31.
TQ_HOST_DEVICE inline int tile_word(int row, int word) { return 4 * (4 * (row % 8) + word % 4) + row / 8 + 2 * (word / 4); }

// Activations as bits: tokens x bits columns of the tensor cores' B operand, in groups of 8 for each of products() instructions. Column n
// of instruction j has bit j + products() * (n / tokens) of token n % tokens; the last bit is the sign.
constexpr int kFewBits =
    10;  // of 5 to 8 tokens' activations: a sixteenth of what rounding to 8 bits costs, for two instructions more a tile
struct Form {
  int tokens = 1;  // 1, 2, 4 or 8
  int bits = 16;   // 16, or kFewBits for 8 tokens
  TQ_HOST_DEVICE int products() const { return tokens * bits / 8; }
};
// The word of a group: of instruction `product`, its column, and the columns 32 `word` + 0..31.
TQ_HOST_DEVICE inline int activation_word(int product, int column, int word) {
  return ((product / 2 * 32 + 4 * column + word % 4) * 2 + product % 2) * 2 + word / 4;
}
inline Form form_of(int tokens) {
  if (tokens > 4) return {8, kFewBits};
  return {tokens == 3 ? 4 : tokens, 16};
}

// words: [groups][products / 2][32 lanes][2 products][2]: lane 4 n + t holds of column n the columns 32 t + 0..31 and 128 + 32 t + 0..31.
struct Activations {
  uint32_t* words = nullptr;
  float* scales = nullptr;  // [groups][tokens of the form]
  float* sums = nullptr;    // [groups][tokens of the form]: of the rounded values, times the scale
};

struct Range {
  int first = 0, count = 0;
};

// How a launch is shared out. The columns are cut into slices, each with as many thread blocks; those of a slice share out the rows of
// tiles. Within a thread block, `parts` warps share the groups of the slice, and `phases` such sets of warps take tiles in turn. All sums
// are taken in a fixed order: results depend on nothing but the number of multiprocessors.
struct Split {
  int groups = 0;  // of 256 columns
  int slices = 1;
  int of_slice = 1;  // thread blocks of a slice, at most `tiles`
  int tiles = 0;     // rows of tiles, over all jobs
  int parts = 1, phases = 1;

  TQ_HOST_DEVICE Range groups_of(int slice) const {
    const int begin = groups * slice / slices;
    return {begin, groups * (slice + 1) / slices - begin};
  }
  TQ_HOST_DEVICE int first_tile(int block) const { return static_cast<int>(static_cast<int64_t>(tiles) * block / of_slice); }
  TQ_HOST_DEVICE int block_of(int tile) const { return static_cast<int>((static_cast<int64_t>(tile + 1) * of_slice - 1) / tiles); }
  // Thread blocks of a slice that have a tile of [first, last].
  TQ_HOST_DEVICE Range blocks_of(int first, int last) const {
    const int begin = block_of(first);
    return {begin, block_of(last) + 1 - begin};
  }
};

constexpr int kOwnedRows = 16;   // rows are owned in units of so many: their plane rows are whole tiles
constexpr int kMaxOwners = 192;  // thread blocks of a launch
constexpr int kMaxSlices = 8;    // thread blocks of a cluster

// How a launch of one token is shared out where every thread block owns rows of outputs and multiplies all plane rows of their windows: the
// halo, what a window takes of the rows before it, by two of them. `slices` thread blocks in turn are a cluster of one matrix: they share
// out the columns of the plane rows of all of them.
struct Owners {
  int slices = 1;
  int first[kMaxJobs + 1] = {};          // of each matrix, its first thread block; multiples of `slices`
  int most_rows = 0, most_planes = 0;    // of a thread block
  int bound_rows = 0, bound_planes = 0;  // the same of the whole matrices that these may be parts of: no less, and equal for all parts
  // At [thread block + number of the matrix], and one more for each matrix's end:
  int32_t row[kMaxOwners + kMaxJobs] = {};    // the first one
  int32_t plane[kMaxOwners + kMaxJobs] = {};  // the first plane row of the first row's own
  int32_t begin[kMaxOwners + kMaxJobs] = {};  // the first plane row of the first row's window; negative where the ring closes
};

// More than kMaxTokens tokens at a time, as bytes: a form of 16 or 32 tokens of 8 bits, or 8, 16 or 32 of 16, which are the sum of a
// byte and 256 of another, both with a sign. Of 16 bits the values of even steps are doubled, and scales halved: there the bits of planes
// count half.
constexpr int kFineTokens = 16;       // up to here many tokens have 16 bits where 8 would do
constexpr int kManyWorkers = 4;       // of a thread block: warpgroups, each with rows of tiles of its own
constexpr int kManyTiles = 4;         // that a worker multiplies at a time, a warp each
constexpr int kManyLeastPlanes = 40;  // of a matrix: the ring may not close upon itself within a window
constexpr int kReachRows = 16;        // of outputs that take from a tile at most
constexpr int kCarriedRows = 8;       // of these, those that end in it at most, and those that end behind it
inline Form many_form(int tokens, bool has_pairs) {
  Form form{has_pairs ? 8 : 16, has_pairs ? 16 : 8};
  while (form.tokens < tokens) form.tokens *= 2;
  return form;
}
// Words of a group: [8 steps][2 halves][bytes of a value, the lower one first][tokens][4]; byte i of word t of half h of a step is of
// column 128 h + 32 t + 8 i + step (byte_product.cuh).
TQ_HOST_DEVICE inline int many_group_words(const Form& form) { return form.tokens * form.bits * (kGroupColumns / 32); }
TQ_HOST_DEVICE inline int many_word(const Form& form, int step, int half, int byte, int token) {
  return (((step * 2 + half) * (form.bits / 8) + byte) * form.tokens + token) * 4;
}

// How a launch of many tokens is shared out: columns are cut into slices, rows of tiles are shared out among the workers of a slice.
struct ManySplit {
  int groups = 0, slices = 1;
  int workers = 1;  // of a slice, a multiple of kManyWorkers
  int tiles = 0;    // rows of tiles, over all jobs
  int ranges = 0;   // over all jobs
  int rounds = 0;   // at most, of a worker

  TQ_HOST_DEVICE Range groups_of(int slice) const {
    const int begin = groups * slice / slices;
    return {begin, groups * (slice + 1) / slices - begin};
  }
  TQ_HOST_DEVICE int most_groups() const { return (groups + slices - 1) / slices; }
  TQ_HOST_DEVICE int first_tile(int worker) const { return static_cast<int>(static_cast<int64_t>(tiles) * worker / workers); }
  TQ_HOST_DEVICE int rows() const { return ranges * kRangeRows; }                                                   // of a slice's sums
  TQ_HOST_DEVICE int64_t partial_sums(int tokens) const { return static_cast<int64_t>(slices) * rows() * tokens; }  // of a form's tokens
};

// Still more tokens at a time: bands of 16 rows are decoded to halves in registers and multiplied with tokens that are halves too.
constexpr int kBandWorkers = 4;                    // of a thread block: warpgroups, each with rows of its own
constexpr int kBandWarps = 4;                      // of a worker, a band each
constexpr int kUnitRows = kBandWarps * kBandRows;  // that a worker multiplies at a time: a unit; as many units as workers are a set
constexpr int kMostSets = 32;                      // of a thread block
constexpr int kRoundWarps = 32;                    // of a thread block that rounds activations
constexpr int kMostRoundGroups = 8;                // of each of these, where they are rounded to halves

// A token's values as halves, in groups of 256 columns: [16 steps][2][tokens][8]. A step is a product over 16 columns: those that have bits
// 2 j and 2 j + 1 of the words of a tile's half (8 columns each, 16 apart), j = step % 8.
struct BandPlace {
  int step, half, at;
};
TQ_HOST_DEVICE inline BandPlace band_place(int column) {  // of a group
  return {column / 128 * 8 + column % 16 / 2, column % 2, column % 128 / 16};
}
TQ_HOST_DEVICE inline int band_group_words(int tokens) { return tokens * (kGroupColumns / 2); }
// Place of a value among the halves of a group.
TQ_HOST_DEVICE inline int band_half(int tokens, int column, int token) {
  const BandPlace place = band_place(column);
  return ((place.step * 2 + place.half) * tokens + token) * 8 + place.at;
}
// A bit is decoded as it lies in its byte, as a half of 2^(place - 24), and taps are kTapPower times what they are: decoded weights are
// 2^(place - 10) times what they are, and values the inverse.
constexpr float kTapPower = 16384.0f;
// Whether a rate's taps are halves then, and what is decoded by them is not too small for one either: those of a unit Gaussian are so.
inline bool are_half_taps(std::span<const float> taps) {
  float largest = 0.0f;
  for (const float tap : taps) largest = std::max(largest, std::abs(tap));
  return largest >= 0.125f && largest * kTapPower <= 64000.0f;
}
TQ_HOST_DEVICE inline int band_exponent(int column) { return 10 - column % 8; }

// How a launch of many tokens is shared out: every set times every group is a place, sets in turn; thread blocks have places in turn, about
// as much work each. What several have of a set is added up by the last one that comes, in the order of the thread blocks.
struct BandSplit {
  int groups = 0, sets = 0, blocks = 1;
  int32_t begin[kMaxOwners + 1] = {};  // of each thread block, the first place; then the number of places

  // The thread blocks that have places of a set.
  TQ_HOST_DEVICE Range blocks_of(int set, int block) const {
    int first = block, last = block;
    while (begin[first] > set * groups) --first;
    while (begin[last + 1] < (set + 1) * groups) ++last;
    return {first, last + 1 - first};
  }
};

// What activations are rounded to: bits (activation_word()), bytes (many_word()), or halves (band_half(), for the tokens of the form, with
// a scale and a sum for each token).
enum class Rounded : uint8_t { kBits, kBytes, kHalves };

struct QuantizeArgs {
  InputArgs input;                // rows of C values, after its prologue
  const uint8_t* sign = nullptr;  // packed
  int tokens = 0, columns = 0, hadamard = 0;
  Form form;
  Rounded to = Rounded::kBits;
  Activations output;
};

// One matrix: its tiles, and what makes rows of its plane rows: the FIR over the taps, the row scale, the bias.
struct PlaneJob {
  const void* tiles = nullptr;
  const uint8_t* rate = nullptr;        // [ranges]
  const int32_t* newest = nullptr;      // [ranges] plane row of the newest bit of the range's first row
  const int32_t* reach = nullptr;       // [tiles][2] first and last range whose windows reach the tile, the ring's closure aside
  const uint16_t* row_scale = nullptr;  // f16 [R]
  const float* taps = nullptr;          // [kRates][kMaxTaps]; the slot behind a rate's last tap is zero
  const float* bias = nullptr;          // [R] or null
  float* output = nullptr;              // [T, R]
  int rows = 0, plane_rows = 0;
  int windows[kRates] = {};             // taps of each rate that it has
  int closing_tile = 0;                 // from here on, range 0 takes plane rows too: the ring closes
  bool takes_bands = true;              // the whole matrix that it may be a part of has rows for bands, and are_half_taps() of all rates
  const int32_t* band_order = nullptr;  // [bands] in which units have them, by rate; null: as they lie
  int first_tile = 0, first_range = 0;  // in the launch

  TQ_HOST_DEVICE int tile_count() const { return (plane_rows + kTileRows - 1) / kTileRows; }
  TQ_HOST_DEVICE int range_count() const { return (rows + kRangeRows - 1) / kRangeRows; }
  TQ_HOST_DEVICE int unit_count() const { return (rows + kUnitRows - 1) / kUnitRows; }
  // The first tile of the band of rows that begins at `row`.
  TQ_HOST_DEVICE int band_tile(int row) const {
    return (newest[row / kRangeRows] + (row % kRangeRows - 1) * rate[row / kRangeRows] + 1) / kTileRows;
  }
};

// A warp's band in a unit.
struct UnitBand {
  int row = 0, tile = 0;      // the first of its own, counted in the matrix
  uint8_t rate = 0, job = 0;  // rate 0: there is no such band
};
// unit: counted over all matrices, each of which has whole ones. part: the warp of the worker.
TQ_HOST_DEVICE inline UnitBand find_band(const PlaneJob* jobs, int count, int unit, int part) {
  UnitBand found;
  for (int index = 0; index < count; ++index) {
    const PlaneJob& job = jobs[index];
    if (unit >= job.unit_count()) {
      unit -= job.unit_count();
      continue;
    }
    const int band = unit * kBandWarps + part;
    if (band * kBandRows >= job.rows) break;
    found.row = (job.band_order ? job.band_order[band] : band) * kBandRows;
    found.rate = job.rate[found.row / kRangeRows], found.job = static_cast<uint8_t>(index);
    found.tile = job.band_tile(found.row);
    break;
  }
  return found;
}

struct PlaneArgs {
  PlaneJob job[kMaxJobs];
  int jobs = 0, tokens = 0;
  Split split;
  bool adds = false;            // output += instead of =
  int least_shared = 0;         // bytes of shared memory to be taken at least (PlanePass::least_shared)
  int most_shared = 1 << 20;    // that a thread block may have
  QuantizeArgs input;           // where thread blocks round for themselves (one token): output unused
  Activations activations;      // otherwise
  float* partial = nullptr;     // [slices][tokens of the form][tiles * 16]
  float* totals = nullptr;      // [slices][2]: one token's sum of rounded values and of squares
  uint32_t* arrived = nullptr;  // [ranges of all jobs], zero between launches
};

// The same for many tokens.
struct ManyArgs {
  PlaneJob job[kMaxJobs];
  int jobs = 0, tokens = 0;
  Form form;
  ManySplit split;
  bool adds = false;
  Activations activations;
  float* partial = nullptr;  // with several slices: [slices][rows()][tokens of the form] filtered sums, then each token's total
};

// The same for still more, with decoded bands.
struct BandArgs {
  PlaneJob job[kMaxJobs];
  int jobs = 0, tokens = 0;
  int form = 0;  // tokens of the form
  BandSplit split;
  bool adds = false;
  Activations activations;
  // [thread blocks][2][workers][kUnitRows][tokens of the form]: of the first and of the last set that others share.
  float* partial = nullptr;
  uint32_t* arrived = nullptr;  // [units], zero between launches
};

// The same for one token where thread blocks own rows.
struct PlaneRowsArgs {
  PlaneJob job[kMaxJobs];
  int jobs = 0, groups = 0;
  bool adds = false;
  bool launches_late = false;  // the next kernel is launched once the input is rounded: its weights do not come before this one's input
  int least_shared = 0;        // as of PlaneArgs
  int most_shared = 0;         // bytes that fit beside a thread block that takes half of a multiprocessor's
  QuantizeArgs input;
  Owners owners;
};

// What falls to a thread block. Its plane rows are counted from the matrix's first; those before it are the ring's last.
struct OwnShare {
  int index, rank, slices, entry;         // matrix; place in the cluster; of the tables of Owners
  int first_row, rows, begin, planes;     // of this thread block
  int tail, head, wrapped, tiles;         // of the cluster: `wrapped` rows of tiles from `tail` on, then from `head` on
  Range groups;                           // of this thread block
  int part, phase, phases, first, count;  // of the warp: groups, counted in the slice
  bool is_active;

  TQ_HOST_DEVICE OwnShare(const PlaneRowsArgs& args, int block, int warp) {
    const Owners& owners = args.owners;
    slices = owners.slices, rank = block % slices, index = 0;
    while (index + 1 < args.jobs && block >= owners.first[index + 1]) ++index;
    entry = block + index;
    first_row = owners.row[entry], rows = owners.row[entry + 1] - first_row;
    begin = owners.begin[entry], planes = owners.plane[entry + 1] - begin;
    const PlaneJob& job = args.job[index];
    const int low = owners.begin[entry - rank], high = owners.plane[entry - rank + slices], all = job.tile_count();
    tail = low < 0 ? (job.plane_rows + low) / kTileRows : all, wrapped = all - tail;
    head = low < 0 ? 0 : low / kTileRows;
    tiles = wrapped + (high + kTileRows - 1) / kTileRows - head;
    const int from = args.groups * rank / slices;
    groups = {from, args.groups * (rank + 1) / slices - from};
    const int parts = (groups.count + kWarpGroups - 1) / kWarpGroups;
    phases = kProductWarps / parts, part = warp % parts, phase = warp / parts;
    first = part * kWarpGroups, count = groups.count - first < kWarpGroups ? groups.count - first : kWarpGroups;
    is_active = phase < phases;
  }
  // Of a row of the cluster's tiles, the plane row; false: there is none, it lies behind the ring's end.
  TQ_HOST_DEVICE bool plane_of(int row, int plane_rows, int& plane) const {
    const int turn = wrapped * kTileRows;
    plane = row < turn ? row + tail * kTileRows - plane_rows : row - turn + head * kTileRows;
    return row >= turn || plane < 0;
  }
  // A row of tiles of the matrix.
  TQ_HOST_DEVICE int tile(int i) const { return i < wrapped ? tail + i : head + i - wrapped; }
};

}  // namespace tq::cuda
