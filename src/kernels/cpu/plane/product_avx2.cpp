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

inline __m256i add_slice(__m256i sum, __m256i packed, int bit, __m256i value) {
  const __m256i slice = _mm256_and_si256(packed, _mm256_set1_epi8(static_cast<char>(1 << bit)));
  return _mm256_add_epi16(sum, _mm256_maddubs_epi16(slice, value));
}

// Half a line: lanes [8 half, 8 half + 8) of all eight slices.
void add_half(const ProductArgs& args, int s, int half, int64_t first, int64_t lines, int64_t group) {
  __m256i wide[8];
  for (__m256i& each : wide) each = _mm256_setzero_si256();
  const uint8_t* bits = args.bits + first * grid::kLineBytes + half * 32;
  const int8_t* values = args.stream[s].values + first * 4;
  for (int64_t begin = 0; begin < lines; begin += kNarrowLines) {
    const int64_t count = std::min(kNarrowLines, lines - begin);
    __m256i sum0 = _mm256_setzero_si256(), sum1 = sum0, sum2 = sum0, sum3 = sum0, sum4 = sum0, sum5 = sum0, sum6 = sum0, sum7 = sum0;
    for (int64_t line = 0; line < count; ++line, bits += grid::kLineBytes, values += 4) {
      const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits)), high = _mm256_srli_epi16(low, 4);
      int32_t four;
      std::memcpy(&four, values, sizeof four);
      const __m256i value = _mm256_set1_epi32(four);
      sum0 = add_slice(sum0, low, 0, value), sum1 = add_slice(sum1, low, 1, value);
      sum2 = add_slice(sum2, low, 2, value), sum3 = add_slice(sum3, low, 3, value);
      sum4 = add_slice(sum4, high, 0, value), sum5 = add_slice(sum5, high, 1, value);
      sum6 = add_slice(sum6, high, 2, value), sum7 = add_slice(sum7, high, 3, value);
    }
    const __m256i narrow[8] = {sum0, sum1, sum2, sum3, sum4, sum5, sum6, sum7};
    for (int j = 0; j < 8; ++j) wide[j] = _mm256_add_epi32(wide[j], _mm256_madd_epi16(narrow[j], _mm256_set1_epi16(1)));
  }
  const __m256 scale = _mm256_set1_ps(args.stream[s].scale[group]);
  for (int j = 0; j < 8; ++j) {
    float* z = args.z[s] + 16 * j + 8 * half;
    const __m256 exact = _mm256_cvtepi32_ps(_mm256_srai_epi32(wide[j], j % 4));
    _mm256_storeu_ps(z, _mm256_fmadd_ps(exact, scale, _mm256_loadu_ps(z)));
  }
}

}  // namespace

void product_avx2(const ProductArgs& args) {
  for (int64_t first = 0, group = 0; first < args.lines; first += kLinesPerGroup, ++group)
    for (int s = 0; s < args.streams; ++s)
      for (int half = 0; half < 2; ++half) add_half(args, s, half, first, std::min(kLinesPerGroup, args.lines - first), group);
}

}  // namespace tq::cpu
#endif
