#if defined(__x86_64__)
#define TQ_SIMD_WIDTH 8
#define TQ_SIMD_TOKENS 6
#include "kernels/cpu/simd/kernels_simd.h"
#include "kernels/cpu/simd/training_simd.h"

namespace tq::cpu {

const FloatKernels& float_kernels_avx2();
const FloatKernels& float_kernels_avx2() { return kTable; }
const TrainingKernels& training_kernels_avx2();
const TrainingKernels& training_kernels_avx2() { return kTrainingTable; }

}  // namespace tq::cpu
#endif
