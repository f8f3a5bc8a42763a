#if defined(__x86_64__)
#define TQ_SIMD_WIDTH 8
#include "kernels/cpu/plane/plane_simd.h"

namespace tq::cpu {

const PlaneKernels& plane_kernels_avx2();
const PlaneKernels& plane_kernels_avx2() { return kPlaneTable; }

}  // namespace tq::cpu
#endif
