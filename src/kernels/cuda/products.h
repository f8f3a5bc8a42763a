// Inputs times matrices of any kind, with what stands before and after the product.
#pragma once

#include <cublas_v2.h>

#include <span>

#include "kernels/cuda/plane_pass.h"

namespace tq::cuda {

class Products {
 public:
  // generation: grows when memory that a recording may use has gone.
  Products(int multiprocessors, bool has_clusters, uint64_t& generation)
      : generation_(generation), plane_pass_(multiprocessors, has_clusters) {}

  // Errors: kNoResource.
  Status open(cublasHandle_t blas, cudaStream_t stream);
  // input: that of args, and what stands before it. sum: where the output of the one job is added, or null.
  void run(const LinearArgs& args, const InputArgs& input, float* sum);
  // Memory for run() with these jobs and up to `rows` tokens. Errors: kNoResource.
  Status reserve(std::span<const LinearJob> jobs, int64_t rows, Precision precision);

  PlaneSteps plane_steps(const CudaMatrix& matrix) const;

  // Other kernels are launched before the next run().
  void interrupt() { plane_pass_.interrupt(); }

 private:
  // Bytes between the kernels of a product.
  struct Needs {
    int64_t input = 0, half_input = 0, decoded = 0;
  };
  static Needs decoded_needs(std::span<const LinearJob> jobs, int64_t tokens, Precision precision);
  static Needs dense_needs(std::span<const LinearJob> jobs, int64_t tokens, Precision precision);
  Status reserve(const Needs& needs);
  // Planes: decoded, then multiplied by cuBLAS.
  bool is_decoded(std::span<const LinearJob> jobs, int64_t tokens, Precision precision) const;
  void multiply_planes(const LinearArgs& args, const InputArgs& input, std::span<const LinearJob> jobs, bool adds);
  void multiply_decoded(const LinearArgs& args, const InputArgs& input, std::span<const LinearJob> jobs, bool adds);
  void multiply_dense(const LinearArgs& args, const InputArgs& input, std::span<const LinearJob> jobs, bool adds);
  void dense_pass(const float* values, std::span<const LinearJob> jobs, int64_t first, int64_t tokens, bool adds);
  // Rows of a matrix, as elements of a type that the input has too.
  struct Part {
    const void* weight = nullptr;
    const void* input = nullptr;
    cudaDataType type = CUDA_R_16F;
    int64_t first = 0, rows = 0;
    bool is_short = false;  // floats are multiplied in TF32
  };
  void gemm(const Part& part, const LinearJob& job, int64_t tokens, bool adds);
  void add_bias(const LinearJob& job, int64_t tokens) const;

  uint64_t& generation_;
  cublasHandle_t blas_ = nullptr;
  cudaStream_t stream_ = nullptr;
  PlanePass plane_pass_;
  Scratch input_, half_input_, decoded_;
};

}  // namespace tq::cuda
