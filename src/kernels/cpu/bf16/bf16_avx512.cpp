// Compiled for AVX-512 with BF16 products; called only where the processor has them.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/bf16/bf16_kernel.h"

namespace tq::cpu {
namespace {

constexpr int64_t kRows = 12, kColumns = 32;

// sum[i] += left.early right[i].early + left.late right[i].late. Not the intrinsic: clang 16 crashes on its vectors of bfloat16.
inline void add_products(__m512& sum, const uint32_t& left, __m512i right) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(right), "m"(left));
}

// 24 sums and two vectors of the right operand: 26 of 32 registers.
void multiply(const Bf16BlockArgs& args) {
  __m512 sum[kRows][2];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
  for (int64_t i = 0; i < args.panel_pairs; ++i) {
    const uint32_t* left = args.panels[i].left;
    const uint32_t* right = args.panels[i].right;
    for (int64_t step = 0; step < args.steps; ++step, left += kRows * kBf16StepPairs)
      for (int64_t k = 0; k < kBf16StepPairs; ++k, right += kColumns) {
        const __m512i first = _mm512_loadu_si512(right), second = _mm512_loadu_si512(right + 16);
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          add_products(sum[r][0], left[r * kBf16StepPairs + k], first);
          add_products(sum[r][1], left[r * kBf16StepPairs + k], second);
        }
      }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < 2; ++v) {
      float* out = args.output + r * args.output_stride + v * 16;
      _mm512_storeu_ps(out, args.accumulate ? _mm512_add_ps(_mm512_loadu_ps(out), sum[r][v]) : sum[r][v]);
    }
}

}  // namespace

const Bf16Kernel& avx512_bf16_kernel() {
  static constexpr Bf16Kernel kKernel{.rows = kRows,
                                      .columns = kColumns,
                                      .float_terms = 0,
                                      .pack_left = pack_left_avx512,
                                      .pack_right = pack_right_avx512,
                                      .multiply = multiply,
                                      .begin = nullptr,
                                      .end = nullptr};
  return kKernel;
}

}  // namespace tq::cpu
#endif
