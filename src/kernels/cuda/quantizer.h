// Quantization on the device: second moments by cuBLAS, their factors by cuSOLVER, rounding by cuda/encode.
#pragma once

#include <cublas_v2.h>

#include <mutex>

#include "base/thread_pool.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/encode/row_staging.h"
#include "kernels/cuda/solver.h"
#include "kernels/device_quantizer.h"

namespace tq::cuda {

class CudaQuantizer final : public DeviceQuantizer {
 public:
  // threads: read weights while they are rounded.
  CudaQuantizer(ThreadPool& threads, cublasHandle_t blas, cudaStream_t stream)
      : blas_(blas), stream_(stream), staging_(threads), solver_(stream) {}
  CudaQuantizer(const CudaQuantizer&) = delete;

  void second_moment(const MomentArgs& args) override;
  void input_error(const InputErrorArgs& args) override;
  std::string factor(const FactorArgs& args, bool& is_definite) override;
  std::string make_objective(const ObjectiveArgs& args, DeviceObjective& out) override;
  std::string round(const RoundBatch& batch, std::vector<RoundedMatrix>& out) override;
  uint64_t free_bytes() const override;

 private:
  const float* uploaded_weights(const float* weight, int64_t tokens);
  const float* weighted(const MomentArgs& args);

  cublasHandle_t blas_;
  cudaStream_t stream_;
  DeviceMemory scaled_, weight_, sign_;  // [T, C], [T], [ceil(C / 8)]
  RowStaging staging_;
  std::mutex solving_;
  Solver solver_;
};

}  // namespace tq::cuda
