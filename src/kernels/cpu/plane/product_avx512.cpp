// AND and vpdpbusd: four columns of sixteen plane rows an instruction, no shift and no shuffle.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "codec/grid/layout.h"
#include "kernels/cpu/plane/product.h"

namespace tq::cpu {
namespace {

constexpr int64_t kLinesPerGroup = kGroupColumns / grid::kLineColumns;
constexpr int64_t kPrefetchLines = 24;  // ahead

__m512i four_columns(const int8_t* values) {
  int32_t packed;
  std::memcpy(&packed, values, sizeof packed);
  return _mm512_set1_epi32(packed);
}

// Plane rows 16 j … 16 j + 15 of a line have weight 2^j in the sums, taken back by a shift at the end of the group.
template <int kStreams>
void add_group(const ProductArgs& args, int64_t first, int64_t lines, int64_t group) {
  __m512i sum[kStreams][8];
  for (auto& stream : sum)
    for (__m512i& each : stream) each = _mm512_setzero_si512();
  const uint8_t* bits = args.bits + first * grid::kLineBytes;
  for (int64_t line = 0; line < lines; ++line, bits += grid::kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(bits + kPrefetchLines * grid::kLineBytes), _MM_HINT_T0);
    const __m512i packed = _mm512_loadu_si512(bits);
    __m512i value[kStreams];
    for (int s = 0; s < kStreams; ++s) value[s] = four_columns(args.stream[s].values + (first + line) * 4);
#pragma clang loop unroll(full)
    for (int j = 0; j < 8; ++j) {
      const __m512i slice = _mm512_and_si512(packed, _mm512_set1_epi8(static_cast<char>(1 << j)));
      for (int s = 0; s < kStreams; ++s) sum[s][j] = _mm512_dpbusd_epi32(sum[s][j], slice, value[s]);
    }
  }
  for (int s = 0; s < kStreams; ++s) {
    const __m512 scale = _mm512_set1_ps(args.stream[s].scale[group]);
#pragma clang loop unroll(full)
    for (int j = 0; j < 8; ++j) {
      float* z = args.z[s] + 16 * j;
      const __m512 exact = _mm512_cvtepi32_ps(_mm512_srai_epi32(sum[s][j], static_cast<unsigned>(j)));
      _mm512_storeu_ps(z, _mm512_fmadd_ps(exact, scale, _mm512_loadu_ps(z)));
    }
  }
}

template <int kStreams>
void run(const ProductArgs& args) {
  for (int64_t first = 0, group = 0; first < args.lines; first += kLinesPerGroup, ++group)
    add_group<kStreams>(args, first, std::min(kLinesPerGroup, args.lines - first), group);
}

}  // namespace

void product_avx512(const ProductArgs& args) {
  switch (args.streams) {
    case 1: return run<1>(args);
    case 2: return run<2>(args);
    default: return run<3>(args);
  }
}

}  // namespace tq::cpu
#endif
