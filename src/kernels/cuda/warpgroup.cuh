// Copies that arrive by themselves, and what the products of a warpgroup have in common.
#pragma once

#include "kernels/cuda/device.cuh"

// The tensor cores' products of a warpgroup are compute capability 9.0's alone ("90a").
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TQ_WARPGROUP_PRODUCTS 1
#endif

namespace tq::cuda {

// Barriers in shared memory of which all threads may wait for the end of a phase; phases are 0 and 1 in turn. One thread opens them, then
// all meet.
__device__ __forceinline__ void arrivals_open(uint64_t* arrivals, int count, int expected) {
  for (int i = 0; i < count; ++i)
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(arrivals + i)), "r"(expected) : "memory");
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ __forceinline__ void arrive(uint64_t* arrival) {
  asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(shared_address(arrival)) : "memory");
}
__device__ __forceinline__ void arrival_wait(uint64_t* arrival, uint32_t phase = 0) {
  uint32_t is_done;
  do {
#if __CUDA_ARCH__ >= 900
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(is_done)
                 : "r"(shared_address(arrival)), "r"(phase)
                 : "memory");
#else
    asm volatile("{.reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(is_done)
                 : "r"(shared_address(arrival)), "r"(phase)
                 : "memory");
#endif
  } while (!is_done);
}

#if __CUDA_ARCH__ >= 900
constexpr bool kHasBulkCopies = true;
// One thread copies `bytes` to shared memory, which arrive as one of a phase of `arrival`. What arrived is known to the tensor cores.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, int bytes, uint64_t* arrival) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(arrival)), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(arrival))
               : "memory");
}
// A warp copies `bytes` (a multiple of 512), as kCopyArrivals.
constexpr int kCopyArrivals = 1;
__device__ __forceinline__ void copy_arriving(void* shared, const void* global, int bytes, uint64_t* arrival, int lane) {
  if (lane == 0) copy_bulk(shared, global, bytes, arrival);
}
#else
constexpr bool kHasBulkCopies = false;
__device__ __forceinline__ void copy_bulk(void*, const void*, int, uint64_t*) {}
constexpr int kCopyArrivals = 32;
__device__ __forceinline__ void copy_arriving(void* shared, const void* global, int bytes, uint64_t* arrival, int lane) {
  for (int at = 16 * lane; at < bytes; at += 512)
    copy_async(shared_address(shared) + static_cast<uint32_t>(at), static_cast<const char*>(global) + at);
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(arrival)) : "memory");
}
#endif

// Products of operands A in registers and B in shared memory: product_begin(), a few steps, product_end(). B: product_operand() and as many
// units of 16 bytes behind; rows of 16 bytes, `kTokens` of them in turn, then as many again.
#ifdef TQ_WARPGROUP_PRODUCTS

// Operands are computed before the first product: between products each would wait for the one before.
__device__ __forceinline__ void product_ready(uint32_t (&a)[4]) { asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])); }
// Registers of the products to come are as they should be.
__device__ __forceinline__ void product_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void product_end() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// The lower half of a matrix descriptor without swizzle, which counts in 16 bytes: where operand B begins, and how far behind its first
// 16 bytes of a row (one for each token) the others lie.
template <int kTokens>
__device__ __forceinline__ uint32_t product_operand(const void* shared) {
  return kTokens << 16 | (shared_address(shared) & 0x3ffffu) >> 4;
}
__device__ __forceinline__ uint64_t product_descriptor(uint32_t operand) {
  constexpr uint64_t kEightRows = 128 >> 4;
  return kEightRows << 32 | operand;
}

#else

__device__ __forceinline__ void product_ready(uint32_t (&)[4]) {}
__device__ __forceinline__ void product_begin() {}
__device__ __forceinline__ void product_end() {}
template <int kTokens>
__device__ __forceinline__ uint32_t product_operand(const void* shared) {
  return shared_address(shared) >> 4;
}

#endif

}  // namespace tq::cuda
