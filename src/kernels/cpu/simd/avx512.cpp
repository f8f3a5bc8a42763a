#if defined(__x86_64__)
#define TQ_SIMD_WIDTH 16
#define TQ_SIMD_TOKENS 12
#include "kernels/cpu/simd/kernels_simd.h"
#include "kernels/cpu/simd/training_simd.h"

namespace tq::cpu {

const FloatKernels& float_kernels_avx512();
const FloatKernels& float_kernels_avx512() { return kTable; }
const TrainingKernels& training_kernels_avx512();
const TrainingKernels& training_kernels_avx512() { return kTrainingTable; }

}  // namespace tq::cpu
#endif
