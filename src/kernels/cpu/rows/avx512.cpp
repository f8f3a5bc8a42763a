#if defined(__x86_64__)
#define TQ_SIMD_WIDTH 16
#include "kernels/cpu/rows/rows_simd.h"

namespace tq::cpu {

const RowKernels& row_kernels_avx512();
const RowKernels& row_kernels_avx512() { return kRowTable; }

}  // namespace tq::cpu
#endif
