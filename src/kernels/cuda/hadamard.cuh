// The Hadamard transform of 256 values that a warp has, 8 a lane: value i of lane l is number 8 l + i.
#pragma once

namespace tq::cuda {

// Sylvester order, not scaled, on blocks of `size` (a power of two up to 256).
__device__ __forceinline__ void hadamard_sums(float (&value)[8], int size, int lane) {
#pragma unroll
  for (int step = 1; step < 8; step *= 2) {
    if (step >= size) break;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i & step) continue;
      const float a = value[i], b = value[i + step];
      value[i] = a + b, value[i + step] = a - b;
    }
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    if (step * 8 >= size) break;
    const float sign = lane & step ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] = fmaf(sign, value[i], __shfl_xor_sync(0xffffffffu, value[i], step));
  }
}

}  // namespace tq::cuda
