// Compiled for AVX-512 with BF16 products; called only where the processor has them.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/bf16_product.h"

namespace tq::cpu {
namespace {

// sum[i] += left.early right[i].early + left.late right[i].late. Not the intrinsic: clang 16 crashes on its vectors of bfloat16.
inline void add_products(__m512& sum, const uint32_t& left, __m512i right) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(right), "m"(left));
}

// 24 sums and two vectors of the right operand: 26 of 32 registers.
void multiply(const uint32_t* left, const uint32_t* right, int64_t pairs, float* sums) {
  __m512 sum[kBf16Rows][2];
#pragma GCC unroll 12
  for (int r = 0; r < kBf16Rows; ++r)
    for (int v = 0; v < 2; ++v) sum[r][v] = _mm512_loadu_ps(sums + r * kBf16Columns + v * 16);
  for (int64_t k = 0; k < pairs; ++k, left += kBf16Rows, right += kBf16Columns) {
    const __m512i first = _mm512_loadu_si512(right), second = _mm512_loadu_si512(right + 16);
#pragma GCC unroll 12
    for (int r = 0; r < kBf16Rows; ++r) {
      add_products(sum[r][0], left[r], first);
      add_products(sum[r][1], left[r], second);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kBf16Rows; ++r)
    for (int v = 0; v < 2; ++v) _mm512_storeu_ps(sums + r * kBf16Columns + v * 16, sum[r][v]);
}

}  // namespace

Bf16Kernel bf16_kernel(Isa isa) { return isa == Isa::kAvx512Bf16 || isa == Isa::kAmx ? multiply : nullptr; }

}  // namespace tq::cpu
#endif
