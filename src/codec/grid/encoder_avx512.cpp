// AVX-512 kernels of the encoder: 16 branches a vector.
#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/grid/encoder_simd.h"

namespace tq::grid {
namespace {

struct Avx512 {
  static constexpr int kLaneBits = 4, kLanes = 16;
  using Reg = __m512;
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  static Reg set1(float x) { return _mm512_set1_ps(x); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  // Costs are not negative, so they order as integers do; Zen has more ports for those.
  static Reg min(Reg a, Reg b) { return _mm512_castsi512_ps(_mm512_min_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b))); }
  static Reg mul_sub(Reg a, Reg b, Reg c) { return _mm512_fmsub_ps(a, b, c); }
  static Reg square_add(Reg e, Reg m) { return _mm512_fmadd_ps(e, e, m); }
  static float reduce_min(Reg x) { return _mm512_reduce_min_ps(x); }
  static uint32_t equal_mask(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static Reg pick(const float* p, int shift, int u) {
    if (shift >= kLaneBits) return set1(p[u >> shift]);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(_mm512_srl_epi32(lane, _mm_cvtsi32_si128(shift)), load(p + (u >> shift)));
  }
  template <int S>
  static void store_folded(float* p, Reg x) {
    if constexpr (S < 4) x = min(x, _mm512_shuffle_f32x4(x, x, 0x4e));
    if constexpr (S < 3) x = min(x, _mm512_shuffle_f32x4(x, x, 0xb1));
    if constexpr (S < 2) x = min(x, _mm512_permute_ps(x, 0x4e));
    if constexpr (S < 1) x = min(x, _mm512_permute_ps(x, 0xb1));
    store(p, x);
  }
  template <int K>
  static Reg repeat(const float* p) {
    if constexpr (K == 3)
      return _mm512_castpd_ps(_mm512_set1_pd(*reinterpret_cast<const double __attribute__((may_alias, aligned(4)))*>(p)));
    if constexpr (K == 2) return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
    if constexpr (K == 1) return _mm512_broadcast_f32x8(_mm256_loadu_ps(p));
  }
  template <int K>
  static Reg natural(Reg x) {
    alignas(64) static constexpr int kIndex[3][16] = {{0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15},
                                                      {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15},
                                                      {0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15}};
    return _mm512_permutexvar_ps(_mm512_load_si512(kIndex[K - 1]), x);
  }
};

}  // namespace

const Kernel& avx512_kernel() {
  static constexpr Kernel kKernel{Avx512::kLaneBits, forward<Avx512, ScalarVector>, trace<Avx512, ScalarVector>,
                                  normalise<Avx512, ScalarVector>};
  return kKernel;
}

}  // namespace tq::grid
#endif
