// Training operations of the CUDA backend: kernels of training_ops.h, products by cuBLAS in TF32 (10 bits of the inputs' mantissas, float
// sums); scores of attention in float.
#pragma once

#include <cublas_v2.h>

#include "kernels/cuda/attend_backward.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/solver.h"
#include "kernels/cuda/weights.h"
#include "kernels/training.h"

namespace tq::cuda {

class CudaTraining final : public Training {
 public:
  // All must outlive it; the stream is cuBLAS's too.
  CudaTraining(Backend& backend, ThreadPool& threads, cublasHandle_t blas, cudaStream_t stream)
      : backend_(backend), threads_(threads), blas_(blas), stream_(stream), solver_(stream) {}

  Result<std::unique_ptr<Matrix>> prepare_trainable(const PackedTensor& tensor, int64_t expert) override;
  float* weights(Matrix& matrix) override;

  void linear(const LinearBackwardArgs& args) override;
  void weight(const WeightGradientArgs& args) override;
  void norm(const NormBackwardArgs& args) override;
  void rotary(const RotaryArgs& args) override;
  void attend(const AttendBackwardArgs& args) override { attend_backward(args, {blas_, stream_}, attend_workspace_); }
  void gated(const GatedBackwardArgs& args) override;
  void cross_entropy(const CrossEntropyArgs& args) override;
  void divergence(const DivergenceArgs& args) override;
  void sample(const SampleArgs& args) override;
  void squared_error(const SquaredErrorArgs& args) override;
  void softcap(const SoftcapBackwardArgs& args) override;
  void scale_rows(const ScaleRowsArgs& args) override;
  void row_scale_gradient(const RowScaleGradientArgs& args) override;
  void column_sum(const ColumnSumArgs& args) override;
  void squares(const SquaresArgs& args) override;
  void adam(const AdamArgs& args) override;
  void product(const DenseProductArgs& args) override;
  Result<bool> solve(const SolveArgs& args) override;
  double dot(const float* a, const float* b, int64_t count) override;

 private:
  const float* widened(const Weights& weights, int64_t first, int64_t count);
  void multiply_planes(const Weights& weights, const LinearBackwardArgs& args);
  template <typename T>
  T* scratch(DeviceMemory& memory, int64_t count) {
    return static_cast<T*>(grow(memory, static_cast<uint64_t>(count) * sizeof(T)));
  }
  template <typename T>
  void download(T* host, const T* from, int64_t count) {
    backend_.download(host, from, static_cast<uint64_t>(count) * sizeof(T));
  }

  Backend& backend_;
  ThreadPool& threads_;
  cublasHandle_t blas_;
  cudaStream_t stream_;
  Solver solver_;
  AttendBackwardWorkspace attend_workspace_;
  DeviceMemory roots_, doubles_, labels_, flag_, decoded_, rotated_;
};

}  // namespace tq::cuda
