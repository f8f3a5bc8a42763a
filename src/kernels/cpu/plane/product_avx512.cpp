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
constexpr int64_t kGroupBytes = kLinesPerGroup * grid::kLineBytes;

__m512i four_columns(const int8_t* values) {
  int32_t packed;
  std::memcpy(&packed, values, sizeof packed);
  return _mm512_set1_epi32(packed);
}

// Lines [first, first + lines) of some blocks that follow each other.
struct Group {
  int64_t block, first, lines, index;
  int64_t prefetch;  // bytes from a line to the one that is fetched with it
};

// Plane rows 16 j … 16 j + 15 of a line have weight 2^j in the sums, taken back by a shift at the end of the group.
template <int kBlocks, int kStreams>
void add_group(const ProductArgs& args, const Group& group) {
  __m512i sum[kBlocks][kStreams][8];
  for (auto& of_block : sum)
    for (auto& stream : of_block)
      for (__m512i& each : stream) each = _mm512_setzero_si512();
  const int64_t block_bytes = args.lines * grid::kLineBytes;
  const uint8_t* bits = args.bits + group.block * block_bytes + group.first * grid::kLineBytes;
  for (int64_t line = 0; line < group.lines; ++line, bits += grid::kLineBytes) {
    __m512i value[kStreams], packed[kBlocks];
    for (int s = 0; s < kStreams; ++s) value[s] = four_columns(args.stream[s].values + (group.first + line) * 4);
    for (int b = 0; b < kBlocks; ++b) {
      _mm_prefetch(reinterpret_cast<const char*>(bits + b * block_bytes + group.prefetch), _MM_HINT_T0);
      packed[b] = _mm512_loadu_si512(bits + b * block_bytes);
    }
#pragma clang loop unroll(full)
    for (int j = 0; j < 8; ++j)
      for (int b = 0; b < kBlocks; ++b) {
        const __m512i slice = _mm512_and_si512(packed[b], _mm512_set1_epi8(static_cast<char>(1 << j)));
        for (int s = 0; s < kStreams; ++s) sum[b][s][j] = _mm512_dpbusd_epi32(sum[b][s][j], slice, value[s]);
      }
  }
  for (int s = 0; s < kStreams; ++s) {
    const __m512 scale = _mm512_set1_ps(args.stream[s].scale[group.index]);
    for (int b = 0; b < kBlocks; ++b)
#pragma clang loop unroll(full)
      for (int j = 0; j < 8; ++j) {
        float* z = args.z[s] + (group.block + b) * grid::kLineRows + 16 * j;
        const __m512 exact = _mm512_cvtepi32_ps(_mm512_srai_epi32(sum[b][s][j], static_cast<unsigned>(j)));
        _mm512_storeu_ps(z, _mm512_fmadd_ps(exact, scale, _mm512_loadu_ps(z)));
      }
  }
}

// A group fetches the next one to the first level, the last group the first one of the blocks that follow.
template <int kBlocks, int kStreams>
void add_blocks(const ProductArgs& args, int64_t block) {
  Group group{.block = block, .first = 0, .lines = kLinesPerGroup, .index = 0, .prefetch = kGroupBytes};
  for (; group.first + kLinesPerGroup < args.lines; group.first += kLinesPerGroup, ++group.index) add_group<kBlocks, kStreams>(args, group);
  group.lines = args.lines - group.first;
  group.prefetch = (kBlocks * args.lines - group.first) * grid::kLineBytes;
  add_group<kBlocks, kStreams>(args, group);
}

// As many blocks at a time as there are registers for sums: each is a stream from memory of its own.
template <int kStreams>
void run(const ProductArgs& args) {
  constexpr int64_t kBlocks = kStreams == 1 ? kProductBlocks : 1;
  int64_t block = 0;
  for (; block + kBlocks <= args.blocks; block += kBlocks) add_blocks<kBlocks, kStreams>(args, block);
  for (; block < args.blocks; ++block) add_blocks<1, kStreams>(args, block);
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
