// A backend for streams of many tokens: matrices are decoded to float once, and multiplied by BLAS. Everything else another backend does.
#pragma once

#include "base/thread_pool.h"
#include "graph/backward.h"
#include "kernels/bf16_product.h"

namespace tq {

// C[m, n] = A[m, k] · B[k, n], each stored so or transposed, by BLAS or in bfloat16. One thread's part of a product.
class FloatProducts {
 public:
  struct Args {
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
  };
  FloatProducts(const cpu::Bf16Kernel* bf16, int threads) : bf16_(bf16), workspaces_(static_cast<size_t>(threads)) {}
  void exact(const Args& args) const;
  // In bfloat16 where there is a kernel.
  void of_training(const Args& args, int thread);

 private:
  const cpu::Bf16Kernel* bf16_;
  std::vector<cpu::Bf16Workspace> workspaces_;  // of the threads
};

// `other`, whose memory is the host's, must outlive it. Only products with an input of any number of tokens are its own; the same results
// on any number of threads. `bf16`, unless null, has those of training, instead of BLAS: inputs and weights are rounded to bfloat16.
class FloatBackend final : public Backend {
 public:
  FloatBackend(Backend& other, ThreadPool& threads, const cpu::Bf16Kernel* bf16 = cpu::bf16_kernel(best_isa()));

  std::string name() const override { return other_.name() + ", linears by BLAS"; }
  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override;
  void embed(const EmbedArgs& args) override { other_.embed(args); }
  void linear(const LinearArgs& args) override;
  void norm(const NormArgs& args) override { other_.norm(args); }
  void rotary(const RotaryArgs& args) override { other_.rotary(args); }
  void kv_store(const KvStoreArgs& args) override { other_.kv_store(args); }
  void attend(const AttendArgs& args) override { other_.attend(args); }
  void gated(const GatedArgs& args) override { other_.gated(args); }
  void add(float* sum, const float* addend, int64_t count) override { other_.add(sum, addend, count); }
  void score(const ScoreArgs& args) override { other_.score(args); }
  Training* training() override { return training_.get(); }

 private:
  Backend& other_;
  ThreadPool& threads_;
  FloatProducts products_;
  std::unique_ptr<Training> training_;  // null if the other has none
};

}  // namespace tq
