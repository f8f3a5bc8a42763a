// Up to kBandTokens tokens times matrices of planes that share their input, and the memory between its kernels.
#pragma once

#include <optional>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/weights.h"

namespace tq::cuda {

QuantizeArgs quantize_args(const Weights& weights, const InputArgs& input, int tokens);

class PlanePass {
 public:
  PlanePass(int multiprocessors, bool has_clusters) : multiprocessors_(multiprocessors), has_clusters_(has_clusters) {}

  // Errors: kNoResource.
  Status open();
  // Of one run. jobs: as there. is_invariant: each token has the same bits whatever the others are.
  int most_tokens(std::span<const LinearJob> jobs, bool is_invariant) const;
  PlaneSteps steps(std::span<const LinearJob> jobs) const;
  // jobs: up to kMaxJobs, of CudaMatrix. adds: to the outputs. generation: grows when memory that a recording may use has gone.
  void run(const InputArgs& input, std::span<const LinearJob> jobs, int tokens, bool is_invariant, bool adds, uint64_t& generation,
           cudaStream_t stream);
  // Memory for run(). Errors: kNoResource.
  Status reserve(std::span<const LinearJob> jobs, int tokens, bool is_invariant, uint64_t& generation);
  // Other kernels are launched before the next run().
  void interrupt() { is_roomy_ = false; }

 private:
  // Shared memory for the next launch of one token. The thread blocks of two launches in turn shall stand side by side, one of each on
  // every multiprocessor. Left to itself, a card puts two of one launch on some and none on others, which then read less than they could.
  // So of two launches in turn the first takes half of a multiprocessor's memory, which with what the card reserves fits no second time,
  // and the other its own need. Cards of less than some 220 KB a multiprocessor have one thread block at a time anyway.
  int least_shared();

  // One token by thread blocks that own rows; false where that is not possible.
  bool run_rows(const QuantizeArgs& input, std::span<const LinearJob> jobs, bool adds, cudaStream_t stream);
  PlanePlan plan(const PlaneArgs& args, int columns, int tokens, bool is_invariant) const;
  Status reserve(const PlanePlan& plan, uint64_t& generation);
  // How many tokens are multiplied at a time, in one launch; none where they are too few or too many for it, or the matrices are too small.
  std::optional<ManyPlan> plan_many(std::span<const LinearJob> jobs, int tokens, bool is_invariant) const;
  Status reserve(const ManyPlan& plan, uint64_t& generation);
  void run_many(const ManyPlan& plan, const QuantizeArgs& input, std::span<const LinearJob> jobs, bool adds, uint64_t& generation,
                cudaStream_t stream);
  // The form in which so many tokens, or fewer, are multiplied with bands decoded in registers, unless plan_many() has a plan; 0 where they
  // are too few or that cannot be.
  int form_of_bands(std::span<const LinearJob> jobs, int tokens, bool is_invariant) const;
  Status reserve_bands(std::span<const LinearJob> jobs, int form, uint64_t& generation);
  void run_bands(int form, const QuantizeArgs& input, std::span<const LinearJob> jobs, bool adds, uint64_t& generation,
                 cudaStream_t stream);

  int multiprocessors_;
  bool has_clusters_;
  int shared_bytes_ = 0;          // that a thread block may have
  int multiprocessor_bytes_ = 0;  // that a multiprocessor has for all of its own
  bool is_roomy_ = false;         // the launch before was one of half of them
  DeviceMemory arrived_;          // zeros between launches
  Scratch words_, scales_, partial_, totals_;
};

}  // namespace tq::cuda
