// vpmaddubsw of {0, 2^j} and int8. The upper four bits of a byte are shifted down first, so that no weight exceeds 8: then the 16-bit sums
// of sixteen lines (2 x 8 x 127 x 16 = 32512) are exact, and only they are widened.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "codec/grid/layout.h"
#include "kernels/cpu/plane/product.h"

namespace tq::cpu {
namespace {

constexpr int64_t kLinesPerGroup = kGroupColumns / grid::kLineColumns;
constexpr int64_t kNarrowLines = 16;  // whose sums fit 16 bits

// Where one pass over half a group of lines begins.
struct Pass {
  const ProductArgs& args;
  int64_t block;
  int stream, half;
  int64_t first, lines, group;
  const uint8_t* bits() const { return args.bits + (block * args.lines + first) * grid::kLineBytes + half * 32; }
  const int8_t* values(int s) const { return args.stream[stream + s].values + first * 4; }
};

inline __m256i four_columns(const int8_t* values) {
  int32_t four;
  std::memcpy(&four, values, sizeof four);
  return _mm256_set1_epi32(four);
}

inline __m256i slice_of(__m256i packed, int bit) { return _mm256_and_si256(packed, _mm256_set1_epi8(static_cast<char>(1 << bit))); }

// Adds `count` lines from `begin` on to 16-bit sums of kStreams streams: all eight slices, or with two streams four of them (kFirst = 0 or
// 4), since there are sixteen registers.
template <int kStreams, int kFirst, int kSlices>
inline void add_lines(const Pass& pass, int64_t begin, int64_t count, __m256i (&wide)[kStreams][8]) {
  const uint8_t* bits = pass.bits() + begin * grid::kLineBytes;
  const int8_t* values[kStreams];
  for (int s = 0; s < kStreams; ++s) values[s] = pass.values(s) + begin * 4;
  __m256i sum[kStreams][kSlices];
  for (auto& stream : sum)
    for (__m256i& each : stream) each = _mm256_setzero_si256();
  for (int64_t line = 0; line < count; ++line, bits += grid::kLineBytes) {
    // The other half reads the same cache lines after this; while it does, those of the next group come.
    if (pass.half == 1 && kFirst == 0) _mm_prefetch(reinterpret_cast<const char*>(bits + kLinesPerGroup * grid::kLineBytes), _MM_HINT_T0);
    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits));
    const __m256i high = _mm256_srli_epi16(packed, 4);
    __m256i value[kStreams];
    for (int s = 0; s < kStreams; ++s) value[s] = four_columns(values[s] + line * 4);
    for (int j = 0; j < kSlices; ++j) {
      const __m256i slice = slice_of(kFirst + j < 4 ? packed : high, (kFirst + j) % 4);
      for (int s = 0; s < kStreams; ++s) sum[s][j] = _mm256_add_epi16(sum[s][j], _mm256_maddubs_epi16(slice, value[s]));
    }
  }
  for (int s = 0; s < kStreams; ++s)
    for (int j = 0; j < kSlices; ++j)
      wide[s][kFirst + j] = _mm256_add_epi32(wide[s][kFirst + j], _mm256_madd_epi16(sum[s][j], _mm256_set1_epi16(1)));
}

// Half a line: lanes [8 half, 8 half + 8) of all eight slices.
template <int kStreams>
void add_half(const Pass& pass) {
  __m256i wide[kStreams][8];
  for (auto& stream : wide)
    for (__m256i& each : stream) each = _mm256_setzero_si256();
  for (int64_t begin = 0; begin < pass.lines; begin += kNarrowLines) {
    const int64_t count = std::min(kNarrowLines, pass.lines - begin);
    if constexpr (kStreams == 1) {
      add_lines<1, 0, 8>(pass, begin, count, wide);
    } else {
      add_lines<kStreams, 0, 4>(pass, begin, count, wide);
      add_lines<kStreams, 4, 4>(pass, begin, count, wide);
    }
  }
  for (int s = 0; s < kStreams; ++s) {
    const __m256 scale = _mm256_set1_ps(pass.args.stream[pass.stream + s].scale[pass.group]);
    for (int j = 0; j < 8; ++j) {
      float* z = pass.args.z[pass.stream + s] + pass.block * grid::kLineRows + 16 * j + 8 * pass.half;
      const __m256 exact = _mm256_cvtepi32_ps(_mm256_srai_epi32(wide[s][j], j % 4));
      _mm256_storeu_ps(z, _mm256_fmadd_ps(exact, scale, _mm256_loadu_ps(z)));
    }
  }
}

void add_block(const ProductArgs& args, int64_t block) {
  for (int64_t first = 0, group = 0; first < args.lines; first += kLinesPerGroup, ++group)
    for (int half = 0; half < 2; ++half) {
      const int64_t lines = std::min(kLinesPerGroup, args.lines - first);
      int s = 0;
      for (; s + 2 <= args.streams; s += 2) add_half<2>({args, block, s, half, first, lines, group});
      if (s < args.streams) add_half<1>({args, block, s, half, first, lines, group});
    }
}

}  // namespace

void product_avx2(const ProductArgs& args) {
  for (int64_t block = 0; block < args.blocks; ++block) add_block(args, block);
}

}  // namespace tq::cpu
#endif
