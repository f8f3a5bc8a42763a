#include "plane_stream.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace {

constexpr int64_t kLine = 64, kGroupLines = 64;

template <int kHint>
void prefetch(const uint8_t* at) {
  _mm_prefetch(reinterpret_cast<const char*>(at), kHint);
}

__m512i four_columns(const int8_t* values) {
  int32_t packed;
  std::memcpy(&packed, values, sizeof packed);
  return _mm512_set1_epi32(packed);
}

// kBlocks side by side; kAhead lines are fetched ahead by kHint (0: none), kFar to the second level.
template <int kBlocks, int kStreams, int kAhead, int kHint = _MM_HINT_T0, int kFar = 0>
void multiply(const StreamArgs& args) {
  const int64_t block = args.lines * kLine;
  for (int64_t first = 0, group = 0; first < args.lines; first += kGroupLines, ++group) {
    __m512i sum[kBlocks][kStreams][8] = {};
    const uint8_t* bits = args.bits + first * kLine;
    const int64_t count = std::min(kGroupLines, args.lines - first);
    for (int64_t line = 0; line < count; ++line, bits += kLine) {
      __m512i value[kStreams], packed[kBlocks];
      for (int s = 0; s < kStreams; ++s) value[s] = four_columns(args.values + (s * args.lines + first + line) * 4);
      for (int b = 0; b < kBlocks; ++b) {
        if constexpr (kAhead > 0) prefetch<kHint>(bits + b * block + kAhead * kLine);
        if constexpr (kFar > 0) prefetch<_MM_HINT_T1>(bits + b * block + kFar * kLine);
        packed[b] = _mm512_loadu_si512(bits + b * block);
      }
#pragma clang loop unroll(full)
      for (int j = 0; j < 8; ++j)
        for (int b = 0; b < kBlocks; ++b) {
          const __m512i slice = _mm512_and_si512(packed[b], _mm512_set1_epi8(static_cast<char>(1 << j)));
          for (int s = 0; s < kStreams; ++s) sum[b][s][j] = _mm512_dpbusd_epi32(sum[b][s][j], slice, value[s]);
        }
    }
    const __m512 scale = _mm512_set1_ps(args.scale[group]);
    for (int b = 0; b < kBlocks; ++b)
      for (int s = 0; s < kStreams; ++s)
#pragma clang loop unroll(full)
        for (int j = 0; j < 8; ++j) {
          float* z = args.z + 128 * b + 16 * j;
          const __m512 exact = _mm512_cvtepi32_ps(_mm512_srai_epi32(sum[b][s][j], static_cast<unsigned>(j)));
          _mm512_storeu_ps(z, _mm512_fmadd_ps(exact, scale, _mm512_loadu_ps(z)));
        }
  }
}

// kBlocks read side by side, whole lines at a time.
template <int kBlocks>
void read(const StreamArgs& args) {
  __m512i sum[kBlocks] = {};
  for (int64_t line = 0; line < args.lines; ++line)
    for (int b = 0; b < kBlocks; ++b) sum[b] = _mm512_add_epi32(sum[b], _mm512_loadu_si512(args.bits + (b * args.lines + line) * kLine));
  for (const __m512i& each : sum) args.z[0] += static_cast<float>(_mm512_reduce_add_epi32(each) & 1);
}

constexpr std::array kVariants = {
    StreamVariant{"8 bits, 1 block, nothing ahead", 1, 1, multiply<1, 1, 0>},
    StreamVariant{"8 bits, 1 block, 24 lines ahead", 1, 1, multiply<1, 1, 24>},
    StreamVariant{"8 bits, 1 block, 64 ahead", 1, 1, multiply<1, 1, 64>},
    StreamVariant{"8 bits, 1 block, 24 ahead, non-temporal", 1, 1, multiply<1, 1, 24, _MM_HINT_NTA>},
    StreamVariant{"8 bits, 1 block, 8 ahead, 256 to L2", 1, 1, multiply<1, 1, 8, _MM_HINT_T0, 256>},
    StreamVariant{"8 bits, 2 blocks, nothing ahead", 2, 1, multiply<2, 1, 0>},
    StreamVariant{"8 bits, 2 blocks, 24 ahead", 2, 1, multiply<2, 1, 24>},
    StreamVariant{"8 bits, 2 blocks, 64 ahead", 2, 1, multiply<2, 1, 64>},
    StreamVariant{"8 bits, 2 blocks, 128 ahead", 2, 1, multiply<2, 1, 128>},
    StreamVariant{"15 bits, 1 block, 24 ahead", 1, 2, multiply<1, 2, 24>},
    StreamVariant{"15 bits, 1 block, 64 ahead", 1, 2, multiply<1, 2, 64>},
    StreamVariant{"15 bits, 1 block, 128 ahead", 1, 2, multiply<1, 2, 128>},
    StreamVariant{"reads, 1 block", 1, 0, read<1>},
    StreamVariant{"reads, 4 blocks", 4, 0, read<4>},
};

}  // namespace

std::span<const StreamVariant> stream_variants() { return kVariants; }
