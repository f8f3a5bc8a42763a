// Tiles of AMX: 16 tokens x 64 bytes times 64 bytes x 16 rows. A line of a panel is a row of the right operand, as it lies.
#if defined(__x86_64__)
#include "kernels/cpu/simd/amx_tiles.h"
#include "kernels/cpu/tile/decode_avx512.h"

namespace tq::cpu {
namespace {

constexpr int64_t kTokens = 32;                           // two tiles
constexpr int64_t kStepColumns = 64;                      // of a tile
constexpr int64_t kTileBytes = 1024;                      // 16 lines of 64 bytes
constexpr int64_t kSteps = kGroupColumns / kStepColumns;  // between two flushes to floats

// Tiles 0 to 3 hold sums, 4 and 5 activations, 6 and 7 weights.

// Step by step a pair of tiles for each group of tokens: [columns / 64][32 tokens][64], or [columns / 64][2][stream][16 tokens][64].
void pack(TileElement element, const TilePacking& packing) {
  const PlaneInput& input = *packing.input;
  const bool is_pair = element == TileElement::kSplit;
  for (int64_t lane = 0; lane < kTokens; ++lane)
    for (int stream = 0; stream < (is_pair ? 2 : 1); ++stream) {
      const int64_t token = packing.first + lane;
      const int8_t* from = token < input.tokens() ? input.stream(token, stream).values : nullptr;
      uint8_t* out = packing.values + (is_pair ? lane / 16 * 2 * kTileBytes + stream * kTileBytes + lane % 16 * 64 : lane * 64);
      for (int64_t k = 0; k < packing.columns; k += kStepColumns, out += (is_pair ? 4 : 2) * kTileBytes)
        _mm512_storeu_si512(out, from ? _mm512_loadu_si512(from + k) : _mm512_setzero_si512());
    }
}

// The four products of two tiles of activations with two of weights over up to 256 columns, and where they become floats. While one
// group is multiplied, the sums of the one before are flushed, a quarter after each step.
struct Group {
  const uint8_t* input = nullptr;
  int64_t input_stride = 0;  // from one step to the next
  const uint8_t* weights[2] = {};
  int64_t stride = 0;  // from one line of the weights to the next
  int64_t steps = 0;
  const uint8_t* next = nullptr;  // what is needed later, of which so many lines are fetched in a step
  int64_t fetches = 0;
};

struct Sums {
  alignas(64) int32_t whole[4 * 256];
  const float* scale = nullptr;
  float* sums = nullptr;
};

// Bytes: whole[token][32 rows].
struct FlushBytes {
  static constexpr int64_t kStride = 128;
  static int64_t place(int left, int right) { return left * 512 + right * 16; }
  static void flush(const Sums& sums, int64_t step) {
    for (int64_t t = step * 8; t < step * 8 + 8; ++t) {
      const __m512 scale = _mm512_set1_ps(sums.scale[t]);
      for (int64_t i = t * kTileRows; i < (t + 1) * kTileRows; i += 16)
        _mm512_storeu_ps(sums.sums + i,
                         _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums.whole + i)), scale, _mm512_loadu_ps(sums.sums + i)));
    }
  }
};

// Activations 128 H + L, weights 32 h + l: whole[part of the activations][token][part of the weights][16 rows].
struct FlushSplit {
  static constexpr int64_t kStride = 128;
  static int64_t place(int left, int right) { return left * 512 + right * 16; }
  static void flush(const Sums& sums, int64_t step) {
    for (int64_t t = step * 4; t < step * 4 + 4; ++t) {
      const auto part = [&](int64_t left) {  // exact: below 2^27
        const int32_t* whole = sums.whole + place(static_cast<int>(left), 0) + t * 32;
        return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(whole), 5), _mm512_load_si512(whole + 16)));
      };
      const __m512 value = _mm512_fmadd_ps(part(0), _mm512_set1_ps(128.0f), part(1));
      float* out = sums.sums + t * kTileRows;
      _mm512_storeu_ps(out, _mm512_fmadd_ps(value, _mm512_set1_ps(sums.scale[t]), _mm512_loadu_ps(out)));
    }
  }
};

template <typename Flush>
class Pipeline {
 public:
  void run(const Group& group, const float* scale, float* sums) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t step = 0; step < kSteps; ++step) {
      if (step < group.steps) multiply(group, step);
      for (int64_t i = 0; i < group.fetches; ++i) _mm_prefetch(group.next + (step * group.fetches + i) * 64, _MM_HINT_T0);
      if (is_pending_) Flush::flush(kept_[1 - now_], step);
    }
    Sums& kept = kept_[now_];
    _tile_stored(0, kept.whole + Flush::place(0, 0), Flush::kStride);
    _tile_stored(1, kept.whole + Flush::place(0, 1), Flush::kStride);
    _tile_stored(2, kept.whole + Flush::place(1, 0), Flush::kStride);
    _tile_stored(3, kept.whole + Flush::place(1, 1), Flush::kStride);
    kept.scale = scale, kept.sums = sums;
    now_ = 1 - now_, is_pending_ = true;
  }

  void finish() {
    if (is_pending_)
      for (int64_t step = 0; step < kSteps; ++step) Flush::flush(kept_[1 - now_], step);
  }

 private:
  static void multiply(const Group& group, int64_t step) {
    const int64_t weights = step * 16 * group.stride;
    _tile_loadd(4, group.input + step * group.input_stride, 64);
    _tile_loadd(6, group.weights[0] + weights, group.stride);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, group.weights[1] + weights, group.stride);
    _tile_dpbssd(1, 4, 7);
    _tile_loadd(5, group.input + step * group.input_stride + kTileBytes, 64);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }

  Sums kept_[2];
  int now_ = 0;
  bool is_pending_ = false;
};

void multiply_bytes(const TileProduct& product) {
  Pipeline<FlushBytes> pipeline;
  const int64_t share = kGroupColumns * kTokens / product.tiles;  // of the next block's activations, while one tile is multiplied
  for (int64_t block = 0; block < product.blocks; ++block)
    for (int64_t tile = 0; tile < product.tiles; ++tile)
      for (int64_t k = 0; k < product.columns; k += kGroupColumns) {
        const uint8_t* weights = product.panel + tile * product.tile_bytes + k * kPanelRows;
        pipeline.run({.input = product.input + block * product.input_bytes + k * kTokens,
                      .input_stride = 2 * kTileBytes,
                      .weights = {weights, weights + product.panel_bytes},
                      .stride = 64,
                      .steps = std::min(kGroupColumns, product.columns - k) / kStepColumns,
                      .next = product.input + (block + 1) * product.input_bytes + k * kTokens + tile * share,
                      .fetches = share / 256},
                     product.scale + block * product.scale_stride + k / kGroupColumns * kTokens,
                     product.sums + tile * product.tile_sums + block * kTokens * kTileRows);
      }
  pipeline.finish();
}

// 16 tokens and 16 rows at a time: the operands' parts are the two tiles of each side.
void multiply_split(const TileProduct& product) {
  Pipeline<FlushSplit> pipeline;
  for (int64_t half = 0; half < 2 * product.blocks; ++half)
    for (int64_t panel = 0; panel < 2 * product.tiles; ++panel)
      for (int64_t k = 0; k < product.columns; k += kGroupColumns) {
        const uint8_t* weights = product.panel + panel / 2 * product.tile_bytes + panel % 2 * product.panel_bytes + k * 2 * kPanelRows;
        pipeline.run({.input = product.input + half / 2 * product.input_bytes + k * 2 * kTokens + half % 2 * 2 * kTileBytes,
                      .input_stride = 4 * kTileBytes,
                      .weights = {weights, weights + 64},
                      .stride = 128,
                      .steps = std::min(kGroupColumns, product.columns - k) / kStepColumns},
                     product.scale + half / 2 * product.scale_stride + k / kGroupColumns * kTokens + half % 2 * 16,
                     product.sums + panel / 2 * product.tile_sums + half * 16 * kTileRows + panel % 2 * kPanelRows);
      }
  pipeline.finish();
}

void multiply(TileElement element, const TileProduct& product) {
  if (element == TileElement::kSigned) multiply_bytes(product);
  else multiply_split(product);
}

void write(const TileOutput& args) {
  if (args.rows < kTileRows) return write_rows(args);
  const __m512 scale[2] = {_mm512_loadu_ps(args.scale), _mm512_loadu_ps(args.scale + 16)};
  const __m512 bias[2] = {_mm512_loadu_ps(args.bias), _mm512_loadu_ps(args.bias + 16)};
  for (int64_t t = 0; t < args.tokens; ++t)
    for (int h = 0; h < 2; ++h) {
      const __m512 sums = _mm512_loadu_ps(args.sums + t * kTileRows + 16 * h);
      _mm512_storeu_ps(args.output + t * args.stride + 16 * h, _mm512_add_ps(_mm512_mul_ps(sums, scale[h]), bias[h]));
    }
}

constexpr TileKernels kTable = {.tokens = kTokens,
                                .panels = 2,
                                .columns = kStepColumns,
                                .tiles = 8,
                                .element = {TileElement::kSigned, TileElement::kSplit},
                                .decode = decode,
                                .pack = pack,
                                .multiply = multiply,
                                .write = write,
                                .begin = begin_tiles,
                                .end = end_tiles,
                                .name = {"tiles amx i8", "tiles amx 2 x i8"}};

}  // namespace

const TileKernels& tile_kernels_amx();
const TileKernels& tile_kernels_amx() { return kTable; }

}  // namespace tq::cpu
#endif
