// AVX2 and FMA kernels of the encoder: 8 branches a vector.
#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/grid/encoder_simd.h"

namespace tq::grid {
namespace {

struct Avx2 {
  static constexpr int kLaneBits = 3, kLanes = 8;
  using Reg = __m256;
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static Reg set1(float x) { return _mm256_set1_ps(x); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  // Costs are not negative, so they order as integers do; Zen has more ports for those.
  static Reg min(Reg a, Reg b) { return _mm256_castsi256_ps(_mm256_min_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b))); }
  static Reg mul_sub(Reg a, Reg b, Reg c) { return _mm256_fmsub_ps(a, b, c); }
  static Reg square_add(Reg e, Reg m) { return _mm256_fmadd_ps(e, e, m); }
  static float reduce_min(Reg x) {
    __m128 half = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_min_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_min_ss(half, _mm_movehdup_ps(half)));
  }
  static uint32_t equal_mask(Reg a, Reg b) { return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ))); }
  static Reg pick(const float* p, int shift, int u) {
    if (shift >= kLaneBits) return set1(p[u >> shift]);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_permutevar8x32_ps(load(p + (u >> shift)), _mm256_srl_epi32(lane, _mm_cvtsi32_si128(shift)));
  }
  template <int S>
  static void store_folded(float* p, Reg x) {
    if constexpr (S < 3) x = min(x, _mm256_permute2f128_ps(x, x, 1));
    if constexpr (S < 2) x = min(x, _mm256_permute_ps(x, 0x4e));
    if constexpr (S < 1) x = min(x, _mm256_permute_ps(x, 0xb1));
    store(p, x);
  }
  template <int K>
  static Reg repeat(const float* p) {
    if constexpr (K == 2)
      return _mm256_castpd_ps(_mm256_set1_pd(*reinterpret_cast<const double __attribute__((may_alias, aligned(4)))*>(p)));
    if constexpr (K == 1) return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
  }
  template <int K>
  static Reg natural(Reg x) {
    if constexpr (K == 2) return _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
    if constexpr (K == 1) return _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
};

}  // namespace

const Kernel& avx2_kernel() {
  static constexpr Kernel kKernel{Avx2::kLaneBits, forward<Avx2, ScalarVector>, trace<Avx2, ScalarVector>, normalise<Avx2, ScalarVector>};
  return kKernel;
}

}  // namespace tq::grid
#endif
