// Row-major products of floats by cuBLAS.
#pragma once

#include <cublas_v2.h>

#include <cstdint>

#include "base/check.h"

namespace tq::cuda {

struct Blas {
  cublasHandle_t handle;
  cudaStream_t stream;
};

struct BatchOperand {
  const float* data = nullptr;
  int64_t stride = 0;  // of rows
  int64_t batch = 0;   // of matrices
};

// out[m, n] (+)= scale * a[m, k] b[k, n], for every matrix of a batch; transposed operands are given as they are stored.
struct BlasProduct {
  BatchOperand a, b;
  bool transpose_a = false, transpose_b = false;
  float* out = nullptr;
  int64_t out_stride = 0, out_batch = 0, m = 0, n = 0, k = 0, batch = 1;
  float scale = 1.0f;
  bool accumulate = false;
  bool is_exact = false;  // float products; else TF32
};

inline void multiply(const Blas& blas, const BlasProduct& p) {
  // Row-major out is column-major out^T = b^T a^T.
  const float sum = p.accumulate ? 1.0f : 0.0f;
  const cublasStatus_t status = cublasGemmStridedBatchedEx(
      blas.handle, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, static_cast<int>(p.n),
      static_cast<int>(p.m), static_cast<int>(p.k), &p.scale, p.b.data, CUDA_R_32F, static_cast<int>(p.b.stride), p.b.batch, p.a.data,
      CUDA_R_32F, static_cast<int>(p.a.stride), p.a.batch, &sum, p.out, CUDA_R_32F, static_cast<int>(p.out_stride), p.out_batch,
      static_cast<int>(p.batch), p.is_exact ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_GEMM_DEFAULT);
  TQ_CHECK(status == CUBLAS_STATUS_SUCCESS);
}

}  // namespace tq::cuda
