// Tiles of bits times bytes of tokens: 16 plane rows (64 with wgmma: those of four warps) x 32 columns x kTokens, integer sums.
#pragma once

#include "kernels/cuda/device.cuh"

// The tensor cores' products of a warpgroup are compute capability 9.0's alone ("90a").
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TQ_WARPGROUP_PRODUCTS 1
#endif

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

// Copies that arrive by themselves: each of `count` arrivals in shared memory is one copy of `bytes` that all threads may wait for. What
// arrived is known to the tensor cores. One thread opens them and then all meet.
constexpr bool kHasArrivals = true;
__device__ __forceinline__ void arrivals_open(uint64_t* arrivals, int count) {
  for (int i = 0; i < count; ++i) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(arrivals + i)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void copy_arriving(void* shared, const void* global, int bytes, uint64_t* arrival) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(arrival)), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(arrival))
               : "memory");
}
__device__ __forceinline__ void arrival_wait(uint64_t* arrival) {
  asm volatile("{.reg .pred p; WAIT: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0; @p bra DONE; bra WAIT; DONE:}" ::"r"(
                   shared_address(arrival))
               : "memory");
}
// Operands are computed here and not between products, each of which would then wait for the one before.
__device__ __forceinline__ void product_ready(uint32_t (&a)[4]) { asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])); }
// Registers of the products to come are as they should be.
__device__ __forceinline__ void product_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void product_end() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// The lower half of a matrix descriptor without swizzle, which counts in 16 bytes: where operand B begins, and how far behind its first
// 16 bytes of a row (`columns` of them in turn) the others lie.
template <int kColumns>
__device__ __forceinline__ uint32_t product_operand(const void* shared) {
  return kColumns << 16 | (shared_address(shared) & 0x3ffffu) >> 4;
}
__device__ __forceinline__ uint64_t product_descriptor(uint32_t operand) {
  constexpr uint64_t kEightRows = 128 >> 4;
  return kEightRows << 32 | operand;
}

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

constexpr bool kHasArrivals = false;
__device__ __forceinline__ void arrivals_open(uint64_t*, int) {}
__device__ __forceinline__ void copy_arriving(void*, const void*, int, uint64_t*) {}
__device__ __forceinline__ void arrival_wait(uint64_t*) {}
__device__ __forceinline__ void product_ready(uint32_t (&)[4]) {}
__device__ __forceinline__ void product_begin() {}
__device__ __forceinline__ void product_end() {}
template <int kColumns>
__device__ __forceinline__ uint32_t product_operand(const void* shared) {
  return shared_address(shared) >> 4;
}
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
