#define TQ_SIMD_WIDTH 4
#define TQ_SIMD_TOKENS 4
#include "kernels/cpu/simd/kernels_simd.h"
#include "kernels/cpu/simd/training_simd.h"

namespace tq::cpu {

#if defined(__x86_64__)
const FloatKernels& float_kernels_avx2();
const FloatKernels& float_kernels_avx512();
const TrainingKernels& training_kernels_avx2();
const TrainingKernels& training_kernels_avx512();
#endif

const FloatKernels& float_kernels(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return float_kernels_avx2();
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
    case Isa::kAmx: return float_kernels_avx512();
#endif
    default: return kTable;
  }
}

const TrainingKernels& training_kernels(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return training_kernels_avx2();
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
    case Isa::kAmx: return training_kernels_avx512();
#endif
    default: return kTrainingTable;
  }
}

}  // namespace tq::cpu
