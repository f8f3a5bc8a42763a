// Quantization on the device: second moments by cuBLAS, rounding by cuda/encode.
#pragma once

#include <cublas_v2.h>

#include "kernels/cuda/device_memory.h"
#include "kernels/device_quantizer.h"

namespace tq::cuda {

class CudaQuantizer final : public DeviceQuantizer {
 public:
  CudaQuantizer(cublasHandle_t blas, cudaStream_t stream) : blas_(blas), stream_(stream) {}

  void second_moment(const MomentArgs& args) override;
  std::string round(const RoundBatch& batch, std::vector<RoundedMatrix>& out) override;
  uint64_t free_bytes() const override;

 private:
  const float* weighted(const MomentArgs& args);

  cublasHandle_t blas_;
  cudaStream_t stream_;
  DeviceMemory scaled_, weight_;  // [T, C], [T]
};

}  // namespace tq::cuda
