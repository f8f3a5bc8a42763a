// Compiled for AVX-512 with BF16 products; called only where the processor has them.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#include "kernels/cpu/bf16/bf16_kernel.h"

namespace tq::cpu {
namespace {

constexpr int64_t kEdge = 16;  // rows of a square of pairs: one step

// 16 pairs along the depth, or of 16 rows (columns).
struct Pairs {
  __m512 early, late;  // in memory's order: the first and the second half of 32 depths; or two depths of 16 rows
};

// To nearest, ties to even: first in the lower half. Not the intrinsic: clang 16 crashes on its vectors of bfloat16.
inline __m512i rounded(__m512 first, __m512 second) {
  __m512i out;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(out) : "v"(second), "v"(first));
  return out;
}

inline __m512 widened(__m256i halves) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)); }

// The next term of both, which leave it behind.
inline __m512i take_term(Pairs& rest, bool is_last) {
  const __m512i term = rounded(rest.early, rest.late);
  if (!is_last) {
    rest.early = _mm512_sub_ps(rest.early, widened(_mm512_castsi512_si256(term)));
    rest.late = _mm512_sub_ps(rest.late, widened(_mm512_extracti64x4_epi64(term, 1)));
  }
  return term;
}

inline __mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>((1u << std::clamp<int64_t>(count, 0, 16)) - 1); }

// square[i][j] -> square[j][i]
inline void transpose(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(v[i], v[i + 1]), b = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(v[i + 2], v[i + 3]), d = _mm512_unpackhi_epi32(v[i + 2], v[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c), t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d), t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  // t[4 i + j]: columns j, 4 + j, 8 + j, 12 + j of rows 4 i to 4 i + 3
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(t[j], t[4 + j], 0x88), b = _mm512_shuffle_i32x4(t[j], t[4 + j], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0x88), d = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0xdd);
    v[j] = _mm512_shuffle_i32x4(a, c, 0x88), v[8 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
    v[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88), v[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// A square of 16 rows and 16 pairs, as memory has it: a vector is a row's pairs where neighbours are depths, a pair of all rows otherwise.
template <bool kIsAlong>
inline Pairs load(const Bf16Operand& operand, int64_t i, int64_t rows, int64_t depth) {
  if constexpr (kIsAlong) {
    const bool is_there = i < rows;
    const float* from = operand.values + (is_there ? i * operand.stride : 0);
    return {_mm512_maskz_loadu_ps(is_there ? first_lanes(depth) : __mmask16{0}, from),
            _mm512_maskz_loadu_ps(is_there ? first_lanes(depth - 16) : __mmask16{0}, from + 16)};
  } else {
    const __mmask16 mask = first_lanes(rows);
    const float* from = operand.values + std::min(2 * i, depth - 1) * operand.depth_stride;
    const float* next = operand.values + std::min(2 * i + 1, depth - 1) * operand.depth_stride;
    return {_mm512_maskz_loadu_ps(2 * i < depth ? mask : __mmask16{0}, from),
            _mm512_maskz_loadu_ps(2 * i + 1 < depth ? mask : __mmask16{0}, next)};
  }
}

template <bool kIsAlong>
inline Pairs load_whole(const Bf16Operand& operand, int64_t i) {
  const float* from = operand.values + (kIsAlong ? i * operand.stride : 2 * i * operand.depth_stride);
  return {_mm512_loadu_ps(from), _mm512_loadu_ps(kIsAlong ? from + 16 : from + operand.depth_stride)};
}

// Neighbours of the two halves side by side.
inline __m512i interleaved(__m512i halves) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                                         18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}

// One square to `out`, whose vectors lie `stride` apart; `kept` of them are stored.
struct Square {
  Bf16Operand operand;
  int64_t rows, depth;  // that there are: at most 16 and 32
  uint32_t* out;
  int64_t stride, kept, term_stride;
};

template <bool kIsAlong, bool kIsTransposed, int kTerms>
void pack_square(const Square& square) {
  Pairs rest[kEdge];
  if (square.rows == kEdge && square.depth == kBf16StepDepth)
    for (int i = 0; i < kEdge; ++i) rest[i] = load_whole<kIsAlong>(square.operand, i);
  else
    for (int i = 0; i < kEdge; ++i) rest[i] = load<kIsAlong>(square.operand, i, square.rows, square.depth);
#pragma GCC unroll 3
  for (int term = 0; term < kTerms; ++term) {
    __m512i v[kEdge];
#pragma GCC unroll 16
    for (int i = 0; i < kEdge; ++i) {
      v[i] = take_term(rest[i], term + 1 == kTerms);
      if constexpr (!kIsAlong) v[i] = interleaved(v[i]);
    }
    if constexpr (kIsTransposed) transpose(v);
    uint32_t* out = square.out + term * square.term_stride;
    if (square.kept == kEdge) {
#pragma GCC unroll 16
      for (int i = 0; i < kEdge; ++i) _mm512_storeu_si512(out + i * square.stride, v[i]);
    } else {
      for (int64_t i = 0; i < square.kept; ++i) _mm512_storeu_si512(out + i * square.stride, v[i]);
    }
  }
}

using PackSquare = void (*)(const Square&);
template <bool kIsAlong, bool kIsTransposed>
PackSquare packer(int terms) {
  constexpr PackSquare kPackers[kMostBf16Terms] = {pack_square<kIsAlong, kIsTransposed, 1>, pack_square<kIsAlong, kIsTransposed, 2>,
                                                   pack_square<kIsAlong, kIsTransposed, 3>};
  return kPackers[terms - 1];
}

// The part of the panel's operand in the square of rows from `row` on and depths of step `step`.
Square square_at(const Bf16PackArgs& args, int64_t row, int64_t step) {
  const int64_t first = step * kBf16StepDepth;
  Square square{.operand = args.operand,
                .rows = std::clamp<int64_t>(args.count - row, 0, kEdge),
                .depth = std::min(kBf16StepDepth, args.depth - first),
                .out = args.panel,
                .stride = 0,
                .kept = kEdge,
                .term_stride = args.term_stride};
  if (square.rows > 0) square.operand.values += row * args.operand.stride + first * args.operand.depth_stride;
  return square;
}

bool is_along(const Bf16PackArgs& args) { return args.operand.depth_stride == 1; }

}  // namespace

void pack_left_avx512(const Bf16PackArgs& args) {
  const PackSquare pack = is_along(args) ? packer<true, false>(args.terms) : packer<false, true>(args.terms);
  for (int64_t step = 0; step < bf16_steps(args.depth); ++step)
    for (int64_t row = 0; row < args.width; row += kEdge) {
      Square square = square_at(args, row, step);
      square.out += (step * args.width + row) * kBf16StepPairs, square.stride = kBf16StepPairs,
                                                                square.kept = std::min(kEdge, args.width - row);
      pack(square);
    }
}

// The width is a multiple of 16.
void pack_right_avx512(const Bf16PackArgs& args) {
  const PackSquare pack = is_along(args) ? packer<true, true>(args.terms) : packer<false, false>(args.terms);
  for (int64_t step = 0; step < bf16_steps(args.depth); ++step)
    for (int64_t column = 0; column < args.width; column += kEdge) {
      Square square = square_at(args, column, step);
      square.out += step * kBf16StepPairs * args.width + column, square.stride = args.width;
      pack(square);
    }
}

}  // namespace tq::cpu
#endif
