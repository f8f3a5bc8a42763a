#if defined(__x86_64__)
#define TQ_SIMD_WIDTH 8
#define TQ_SIMD_TOKENS 6
#include "kernels/cpu/simd/kernels_simd.h"

namespace tq::cpu {

const FloatKernels& float_kernels_avx2();
const FloatKernels& float_kernels_avx2() { return kTable; }

}  // namespace tq::cpu
#endif
