// Rows of decoded weights times tokens, both halves: 16 rows (64 with wgmma: those of four warps) x 16 columns x kTokens, float sums.
#pragma once

#include "kernels/cuda/warpgroup.cuh"

namespace tq::cuda {

// Operand B of a step in shared memory: [2][tokens][8 halves], a token's values of columns 0..7 and 8..15.
//
// product_step(d, a, operand): d += a b. d, a lane's sums: of lane 4 g + t, value 4 b + 2 r + c is of row g + 8 r and token 8 b + 2 t + c.
// a: as operand A of m16n8k16. operand: where B is, product_operand() and as many units of 16 bytes behind. They hold after product_end().
#ifdef TQ_WARPGROUP_PRODUCTS

#define TQ_SUM(i) "+f"(d[i])
#define TQ_FOUR(i) TQ_SUM(i), TQ_SUM(i + 1), TQ_SUM(i + 2), TQ_SUM(i + 3)
#define TQ_SIXTEEN(i) TQ_FOUR(i), TQ_FOUR(i + 4), TQ_FOUR(i + 8), TQ_FOUR(i + 12)
#define TQ_PRODUCT(tokens, values, all, sums, operands)                                                             \
  __device__ __forceinline__ void product_step(float(&d)[values], const uint32_t(&a)[4], uint32_t operand) {        \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" tokens "k16.f32.f16.f16 {" sums "}, " operands ", 1, 1, 1, 0;" \
                 : all                                                                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(product_descriptor(operand)));                   \
  }
#define TQ_ALL_16 TQ_SIXTEEN(0)
#define TQ_ALL_32 TQ_SIXTEEN(0), TQ_SIXTEEN(16)
#define TQ_ALL_48 TQ_SIXTEEN(0), TQ_SIXTEEN(16), TQ_SIXTEEN(32)
#define TQ_ALL_64 TQ_SIXTEEN(0), TQ_SIXTEEN(16), TQ_SIXTEEN(32), TQ_SIXTEEN(48)
#define TQ_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define TQ_NAMES_16 TQ_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define TQ_NAMES_32 TQ_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TQ_NAMES_48 TQ_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define TQ_NAMES_64 TQ_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
TQ_PRODUCT("32", 16, TQ_ALL_16, TQ_NAMES_16, "{%16, %17, %18, %19}, %20")
TQ_PRODUCT("64", 32, TQ_ALL_32, TQ_NAMES_32, "{%32, %33, %34, %35}, %36")
TQ_PRODUCT("96", 48, TQ_ALL_48, TQ_NAMES_48, "{%48, %49, %50, %51}, %52")
TQ_PRODUCT("128", 64, TQ_ALL_64, TQ_NAMES_64, "{%64, %65, %66, %67}, %68")
#undef TQ_PRODUCT
#undef TQ_SUM
#undef TQ_FOUR
#undef TQ_SIXTEEN
#undef TQ_ALL_16
#undef TQ_ALL_32
#undef TQ_ALL_48
#undef TQ_ALL_64
#undef TQ_NAMES_8
#undef TQ_NAMES_16
#undef TQ_NAMES_32
#undef TQ_NAMES_48
#undef TQ_NAMES_64

#else

template <int kValues>
__device__ __forceinline__ void product_step(float (&d)[kValues], const uint32_t (&a)[4], uint32_t operand) {
  constexpr uint32_t kHalf = 32 * kValues;
#pragma unroll
  for (int i = 0; i < kValues / 4; ++i) {
    float(&sum)[4] = *reinterpret_cast<float(*)[4]>(&d[4 * i]);
    const uint32_t at = 16 * operand + static_cast<uint32_t>(128 * i + 4 * (threadIdx.x % 32));
    mma_halves(sum, a, load_shared_word(at), load_shared_word(at + kHalf));
  }
}

#endif

}  // namespace tq::cuda
