// Tiles of AMX: 16 left rows x 64 bytes times 64 bytes x 16 right rows.
#if defined(__x86_64__)
#include "kernels/cpu/digits/digit_split_avx512.h"
#include "kernels/cpu/simd/amx_tiles.h"

namespace tq::cpu {
namespace {

constexpr int64_t kSteps = kDigitGroup / kDigitStep;

// Sums of one tile until they are added as floats: aA, aB, bA, aC, bB, cA.
struct Sums {
  alignas(64) int32_t whole[6][256];
  const float* left_scale = nullptr;
  float* sums = nullptr;
};

// A product of tiles takes 16 cycles and its sum may be added to after 52, so that each of the six has a tile; two are left for operands.
inline void multiply_step(const uint8_t* left, const uint8_t* right) {
  constexpr int64_t kNext = kDigitTileBytes;
  _tile_loadd(6, left + 2 * kNext, 64);
  _tile_loadd(7, right, 64);
  _tile_dpbssd(5, 6, 7);
  _tile_loadd(6, left, 64);
  _tile_dpbssd(0, 6, 7);
  _tile_loadd(6, left + kNext, 64);
  _tile_dpbssd(2, 6, 7);
  _tile_loadd(7, right + kNext, 64);
  _tile_dpbssd(4, 6, 7);
  _tile_loadd(6, left, 64);
  _tile_dpbssd(1, 6, 7);
  _tile_loadd(7, right + 2 * kNext, 64);
  _tile_dpbssd(3, 6, 7);
}

inline void zero_tiles() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
}

inline void store_tiles(int32_t (&whole)[6][256]) {
  _tile_stored(0, whole[0], 64);
  _tile_stored(1, whole[1], 64);
  _tile_stored(2, whole[2], 64);
  _tile_stored(3, whole[3], 64);
  _tile_stored(4, whole[4], 64);
  _tile_stored(5, whole[5], 64);
}

// Rows [4 step, 4 step + 4) of a tile.
inline void flush(const Sums& kept, int64_t step, __m512 right_scale) {
  for (int64_t r = 4 * step; r < 4 * step + 4; ++r) {
    const auto at = [&](int i) { return _mm512_load_si512(kept.whole[i] + 16 * r); };
    const __m512 second = _mm512_cvtepi32_ps(_mm512_add_epi32(at(1), at(2)));
    const __m512 third = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_add_epi32(at(3), at(4)), at(5)));
    const __m512 value =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(at(0)), _mm512_set1_ps(65536.0f), _mm512_fmadd_ps(second, _mm512_set1_ps(256.0f), third));
    const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(kept.left_scale[r]), right_scale);
    _mm512_storeu_ps(kept.sums + 16 * r, _mm512_fmadd_ps(value, scale, _mm512_loadu_ps(kept.sums + 16 * r)));
  }
}

inline void fetch(const uint8_t* lines, int64_t count) {
  for (int64_t i = 0; i < count; ++i) _mm_prefetch(lines + i * 64, _MM_HINT_T0);
}

// While one tile is multiplied, the sums of the one before are added, a quarter after each step, and a part of what may be the next right
// operand is fetched.
void multiply(const DigitProduct& product) {
  Sums kept[2];
  const __m512 right_scale = _mm512_loadu_ps(product.right_scale);
  const int64_t fetches = product.columns < kDigitGroup ? 0 : kDigitBytes / 64 / (kSteps * product.tiles);
  for (int64_t tile = 0; tile <= product.tiles; ++tile) {
    Sums& now = kept[tile % 2];
    const Sums& before = kept[1 - tile % 2];
    if (tile < product.tiles) zero_tiles();
    for (int64_t step = 0; step < kSteps; ++step) {
      const int64_t at = step * kDigits * kDigitTileBytes;
      if (tile < product.tiles && step * kDigitStep < product.columns)
        multiply_step(product.left + tile * product.left_bytes + at, product.right + at);
      if (fetches > 0 && tile < product.tiles) fetch(product.right + kDigitBytes + (tile * kSteps + step) * fetches * 64, fetches);
      if (tile > 0) flush(before, step, right_scale);
    }
    if (tile == product.tiles) return;
    store_tiles(now.whole);
    now.left_scale = product.left_scale + tile * kDigitRows, now.sums = product.sums + tile * kDigitRows * kDigitRows;
  }
}

void write(const DigitOutput& args) {
  __m512i rows[16];
  for (int64_t l = 0; l < kDigitRows; ++l) {
    const __m512 sums = _mm512_loadu_ps(args.sums + l * args.sums_stride);
    rows[l] = _mm512_castps_si512(args.bias && l < args.left ? _mm512_add_ps(sums, _mm512_set1_ps(args.bias[l])) : sums);
  }
  const auto mask = static_cast<__mmask16>((1u << args.left) - 1);
  transpose_16x16(rows, [&](int64_t r, __m512i row) {
    if (r < args.right) _mm512_mask_storeu_ps(args.output + r * args.stride, mask, _mm512_castsi512_ps(row));
  });
}

constexpr DigitKernels kTable = {split_rows<true>, split_rows<false>, multiply, write, begin_tiles, end_tiles};

}  // namespace

const DigitKernels& digit_kernels_amx();
const DigitKernels& digit_kernels_amx() { return kTable; }

}  // namespace tq::cpu
#endif
