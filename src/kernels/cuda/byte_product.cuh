// Tiles of bits times bytes of tokens: 16 plane rows (64 with wgmma: those of four warps) x 32 columns x kTokens, integer sums.
#pragma once

#include "kernels/cuda/warpgroup.cuh"

namespace tq::cuda {

// The four registers of operand A at step `step` of 8: of every byte of the tile's words one bit, as kBitValue, or with kDoubles in odd
// steps as twice that, for fewer instructions. Byte i of register r of lane 4 g + t is of plane row g + 8 (r % 2) and column 128 (r / 2) +
// 32 t + 8 i + step. Bits move to the left, which is a product with a power of two: shifts to the right all take one pipe of half the
// width.
template <bool kDoubles>
constexpr int kBitValue = kDoubles ? 64 : 128;
template <bool kDoubles>
__device__ __forceinline__ void bits_as_bytes(const uint4& tile, int step, uint32_t (&a)[4]) {
  const uint32_t power = kDoubles ? 1u << (6 - (step & 6)) : 1u << (7 - step);
  const uint32_t mask = 0x01010101u * kBitValue<kDoubles> << (kDoubles ? step % 2 : 0);
  a[0] = tile.x * power & mask, a[1] = tile.y * power & mask;
  a[2] = tile.z * power & mask, a[3] = tile.w * power & mask;
}

// Operand B of a step in shared memory: [2][columns][16] bytes, a column a byte of a token; first those of the matrix's columns 32 t + 8 i
// + step at place 4 t + i, then those of 128 columns on.
//
// product_step(d, a, operand): d, a lane's sums: of lane 4 g + t, value 4 b + 2 r + c is of plane row g + 8 r and column 8 b + 2 t + c.
// operand: where B is, product_operand() and as many units of 16 bytes behind. kAdds: to the sums that are there. They hold after
// product_end().
#ifdef TQ_WARPGROUP_PRODUCTS

#define TQ_PRODUCT_ASM(tokens, adds, sums, operands, outputs, a, b)                                                                        \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " adds ", 0; wgmma.mma_async.sync.aligned.m64n" tokens "k32.s32.u8.s8 {" sums "}, " operands \
               ", p;}"                                                                                                                     \
               : outputs                                                                                                                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define TQ_NEW(i) "=&r"(d[i])
#define TQ_OLD(i) "+r"(d[i])
#define TQ_FOUR(to, i) to(i), to(i + 1), to(i + 2), to(i + 3)
#define TQ_EIGHT(to, i) TQ_FOUR(to, i), TQ_FOUR(to, i + 4)
#define TQ_SIXTEEN(to, i) TQ_EIGHT(to, i), TQ_EIGHT(to, i + 8)
#define TQ_THIRTY_TWO(to, i) TQ_SIXTEEN(to, i), TQ_SIXTEEN(to, i + 16)
#define TQ_PRODUCT(tokens, values, all, sums, operands)                                                    \
  template <bool kAdds>                                                                                    \
  __device__ __forceinline__ void product_step(int(&d)[values], const uint32_t(&a)[4], uint32_t operand) { \
    const uint64_t b = product_descriptor(operand);                                                        \
    if constexpr (kAdds) TQ_PRODUCT_ASM(tokens, "1", sums, operands, TQ_ALL(all, TQ_OLD), a, b);           \
    else TQ_PRODUCT_ASM(tokens, "0", sums, operands, TQ_ALL(all, TQ_NEW), a, b);                           \
  }
#define TQ_ALL(all, to) all(to, 0)
TQ_PRODUCT("16", 8, TQ_EIGHT, "%0, %1, %2, %3, %4, %5, %6, %7", "{%8, %9, %10, %11}, %12")
TQ_PRODUCT("32", 16, TQ_SIXTEEN, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "{%16, %17, %18, %19}, %20")
TQ_PRODUCT("64", 32, TQ_THIRTY_TWO,
           "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
           "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
           "{%32, %33, %34, %35}, %36")
#undef TQ_PRODUCT
#undef TQ_PRODUCT_ASM
#undef TQ_ALL
#undef TQ_NEW
#undef TQ_OLD
#undef TQ_FOUR
#undef TQ_EIGHT
#undef TQ_SIXTEEN
#undef TQ_THIRTY_TWO

#else

template <bool kAdds, int kValues>
__device__ __forceinline__ void product_step(int (&d)[kValues], const uint32_t (&a)[4], uint32_t operand) {
  constexpr uint32_t kHalf = 32 * kValues;
#pragma unroll
  for (int i = 0; i < kValues / 4; ++i) {
    int(&sum)[4] = *reinterpret_cast<int(*)[4]>(&d[4 * i]);
    const uint32_t at = 16 * operand + static_cast<uint32_t>(128 * i + 4 * (threadIdx.x % 32));
    if (!kAdds) sum[0] = sum[1] = sum[2] = sum[3] = 0;
    mma_bytes(sum, a, load_shared_word(at), load_shared_word(at + kHalf));
  }
}

#endif

}  // namespace tq::cuda
