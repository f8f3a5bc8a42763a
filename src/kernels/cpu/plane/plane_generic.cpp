#define TQ_SIMD_WIDTH 4
#include "kernels/cpu/plane/plane_simd.h"

namespace tq::cpu {

#if defined(__x86_64__)
const PlaneKernels& plane_kernels_avx2();
const PlaneKernels& plane_kernels_avx512();
#endif

const PlaneKernels& plane_kernels(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return plane_kernels_avx2();
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
    case Isa::kAmx: return plane_kernels_avx512();
#endif
    default: return kPlaneTable;
  }
}

}  // namespace tq::cpu
