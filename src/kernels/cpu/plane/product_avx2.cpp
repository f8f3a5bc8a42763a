// vpmaddubsw of {0, 2^j} and int8: 2 x 128 x 127 fits 16 bits, a sum of two such does not, so every product is widened at once.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "codec/grid/layout.h"
#include "kernels/cpu/plane/product.h"

namespace tq::cpu {
namespace {

constexpr int64_t kLinesPerGroup = kGroupColumns / grid::kLineColumns;

// Half a line: lanes [8 half, 8 half + 8) of all eight slices.
void add_half(const ProductArgs& args, int s, int half, int64_t first, int64_t lines, int64_t group) {
  __m256i sum[8];
  for (__m256i& each : sum) each = _mm256_setzero_si256();
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t line = 0; line < lines; ++line) {
    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(args.bits + (first + line) * grid::kLineBytes + half * 32));
    int32_t four;
    std::memcpy(&four, args.stream[s].values + (first + line) * 4, sizeof four);
    const __m256i value = _mm256_set1_epi32(four);
    for (int j = 0; j < 8; ++j) {
      const __m256i slice = _mm256_and_si256(packed, _mm256_set1_epi8(static_cast<char>(1 << j)));
      sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(_mm256_maddubs_epi16(slice, value), ones));
    }
  }
  const __m256 scale = _mm256_set1_ps(args.stream[s].scale[group]);
  for (int j = 0; j < 8; ++j) {
    float* z = args.z[s] + 16 * j + 8 * half;
    const __m256 exact = _mm256_cvtepi32_ps(_mm256_srai_epi32(sum[j], j));
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
