// Products of matrices of floats on the processor's threads: by BLAS, or by way of bfloat16 where the processor multiplies that faster.
#pragma once

#include <span>
#include <vector>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "kernels/bf16_product.h"
#include "kernels/training.h"

namespace tq {

// C[m, n] = A[m, k] · B[k, n], each stored so or transposed.
struct FloatProduct {
  int64_t rows = 0, columns = 0, depth = 0;
  const float* left = nullptr;
  int64_t left_stride = 0;
  bool is_left_transposed = false;  // stored [depth, rows]
  const float* right = nullptr;
  int64_t right_stride = 0;
  bool is_right_transposed = false;  // stored [columns, depth]
  float* output = nullptr;
  int64_t output_stride = 0;
  bool accumulate = false;
  const float* bias = nullptr;  // [columns], or null; not with `accumulate`
};

// weight_gradient += gradient^T input
FloatProduct product_of(const WeightGradientArgs& args);

enum class ProductPrecision {
  kFloat,  // BLAS, or every float split in two bfloat16 numbers: 2^-17 of |x||y| at most, some 1e-7 in the mean. X^T X stays a Gram matrix
  kTraining,  // the factors rounded to bfloat16, where there is a kernel
};

// Not for two callers at once.
class FloatProducts {
 public:
  explicit FloatProducts(ThreadPool& threads, Isa isa = best_isa()) : FloatProducts(threads, cpu::bf16_kernel(isa)) {}
  // bf16: null for BLAS alone.
  FloatProducts(ThreadPool& threads, const cpu::Bf16Kernel* bf16);

  ThreadPool& threads() const { return *threads_; }
  // Whether products of training are others than those of BLAS.
  bool rounds_training() const { return bf16_ != nullptr; }
  // All of them at once. The same bits on any number of threads.
  void run(std::span<const FloatProduct> products, ProductPrecision precision);
  void run(const FloatProduct& product, ProductPrecision precision) { run({&product, 1}, precision); }
  // On the calling thread alone, the pool's `thread`.
  void run_on(int thread, const FloatProduct& product, ProductPrecision precision);

 private:
  int terms_of(ProductPrecision precision) const;  // bfloat16 numbers that a float becomes; 0: BLAS

  ThreadPool* threads_;
  const cpu::Bf16Kernel* bf16_;
  std::vector<cpu::Bf16Workspace> workspaces_;  // of the threads
};

}  // namespace tq
