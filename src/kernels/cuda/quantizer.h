// Quantization on the device: second moments by cuBLAS, rounding by cuda/encode.
#pragma once

#include <cublas_v2.h>
#include <cusolverDn.h>

#include <mutex>

#include "kernels/cuda/device_memory.h"
#include "kernels/device_quantizer.h"

namespace tq::cuda {

class CudaQuantizer final : public DeviceQuantizer {
 public:
  CudaQuantizer(cublasHandle_t blas, cudaStream_t stream) : blas_(blas), stream_(stream) {}
  ~CudaQuantizer() override;
  CudaQuantizer(const CudaQuantizer&) = delete;

  void second_moment(const MomentArgs& args) override;
  std::string factor(const FactorArgs& args, bool& is_definite) override;
  std::string round(const RoundBatch& batch, std::vector<RoundedMatrix>& out) override;
  uint64_t free_bytes() const override;

 private:
  const float* weighted(const MomentArgs& args);
  std::string open_solver();

  cublasHandle_t blas_;
  cudaStream_t stream_;
  DeviceMemory scaled_, weight_;  // [T, C], [T]
  std::mutex solving_;
  cusolverDnHandle_t solver_ = nullptr;  // made when it is first used
};

}  // namespace tq::cuda
