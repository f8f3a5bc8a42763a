// A backend for streams of many tokens: matrices are decoded to float once, and multiplied as floats. Everything else another backend does.
#pragma once

#include "base/thread_pool.h"
#include "graph/backward.h"
#include "kernels/float_products.h"

namespace tq {

// `other`, whose memory is the host's, must outlive it. Only products with an input of any number of tokens are its own; the same results
// on any number of threads. `bf16`, unless null, has those of training, instead of BLAS: inputs and weights are rounded to bfloat16.
class FloatBackend final : public Backend {
 public:
  FloatBackend(Backend& other, ThreadPool& threads, const cpu::Bf16Kernel* bf16);
  FloatBackend(Backend& other, ThreadPool& threads) : FloatBackend(other, threads, cpu::bf16_kernel(other.isa())) {}

  std::string name() const override { return other_.name() + ", linears in float"; }
  Isa isa() const override { return other_.isa(); }
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
  FloatProducts products_;
  std::unique_ptr<Training> training_;  // null if the other has none
};

}  // namespace tq
