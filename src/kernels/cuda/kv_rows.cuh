// Keys and values on their way into the store.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/dense_args.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/half_terms.cuh"

namespace tq::cuda {

// The number of the row of a head at a position, and where it lies, in bytes from the keys or the values.
__device__ __forceinline__ int64_t row_index(const KvArgs& kv, const int32_t* pages, int head, int position) {
  const int index = position >> kv.page_shift, page = pages ? pages[index] : index;
  return ((static_cast<int64_t>(page) * kv.kv_heads + head) << kv.page_shift) + (position & ((1 << kv.page_shift) - 1));
}
__device__ __forceinline__ int64_t row_at(const KvArgs& kv, const int32_t* pages, int head, int position) {
  return row_index(kv, pages, head, position) * kv.row_bytes;
}

// Elements i and i + half of a head, turned to its position.
__device__ __forceinline__ void rotate_pair(const RotateArgs& args, int position, int i, float low, float high, float* to) {
  float sine, cosine;
  sincosf(static_cast<float>(position) * args.inv_freq[i], &sine, &cosine);
  sine *= args.magnitude, cosine *= args.magnitude;
  to[i] = low * cosine - high * sine;
  to[i + args.half] = high * cosine + low * sine;
}

// A warp rounds a row as KvType says.
__device__ inline void store_row(const KvArgs& kv, const float* values, char* row, int lane) {
  if (kv.type == 0) {
    for (int i = lane; i < kv.head_dim; i += 32) reinterpret_cast<float*>(row)[i] = values[i];
  } else if (kv.type == 1) {
    for (int i = lane; i < kv.head_dim; i += 32) reinterpret_cast<__half*>(row)[i] = to_half(values[i]);
  } else {
    uint32_t most = 0;  // bits of magnitudes, which keep NaN
    for (int i = lane; i < kv.head_dim; i += 32) most = max(most, __float_as_uint(fabsf(values[i])));
    const float largest = __uint_as_float(__reduce_max_sync(0xffffffffu, most));
    const float scale = largest / 127.0f, inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    for (int i = lane; i < kv.head_dim; i += 32)
      reinterpret_cast<int8_t*>(row)[i] = static_cast<int8_t>(__float2int_rn(values[i] * inverse));
    if (lane == 0) *reinterpret_cast<float*>(row + kv.scale_at) = scale;
  }
}

}  // namespace tq::cuda
