#include "peak.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kRounds = 2'000'000;

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) int64_t float_products() {
  __m256 sum[12];
  for (auto& each : sum) each = _mm256_setzero_ps();
  __m256 x = _mm256_set1_ps(1.0f);
  for (int64_t i = 0; i < kRounds; ++i) {
    asm volatile("" : "+x"(x));
    for (auto& each : sum) each = _mm256_fmadd_ps(x, x, each);
  }
  for (auto& each : sum) asm volatile("" : "+x"(each));
  return kRounds * 12 * 8;
}

__attribute__((target("avx2,fma"))) int64_t integer_products() {
  __m256i sum[12];
  for (auto& each : sum) each = _mm256_setzero_si256();
  __m256i x = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < kRounds; ++i) {
    for (auto& each : sum) {
      asm volatile("" : "+x"(x));
      each = _mm256_add_epi32(each, _mm256_madd_epi16(x, x));
    }
  }
  for (auto& each : sum) asm volatile("" : "+x"(each));
  return kRounds * 12 * 16;
}

__attribute__((target("avx512f,avx512vnni"))) int64_t vnni_products() {
  __m512i sum[12];
  for (auto& each : sum) each = _mm512_setzero_si512();
  __m512i x = _mm512_set1_epi8(1);
  for (int64_t i = 0; i < kRounds; ++i) {
    asm volatile("" : "+x"(x));
    for (auto& each : sum) each = _mm512_dpbusd_epi32(each, x, x);
  }
  for (auto& each : sum) asm volatile("" : "+x"(each));
  return kRounds * 12 * 64;
}
#endif

}  // namespace

int64_t spend_products(tq::Isa isa, bool is_float) {
#if defined(__x86_64__)
  if (isa == tq::Isa::kGeneric) return 0;
  if (is_float) return float_products();
  return isa == tq::Isa::kAvx2 ? integer_products() : vnni_products();
#else
  (void)isa, (void)is_float;
  return 0;
#endif
}
