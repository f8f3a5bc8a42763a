// Launches of the product of planes with many tokens.
#include "kernels/cuda/join_slices.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/plane_many.cuh"

namespace tq::cuda {
namespace {

// What a form's kernel needs of shared memory, and its launch if there is a stream.
template <int kTokens, int kBits>
int visit(const ManySplit& split, const ManyArgs* args, int blocks, cudaStream_t stream) {
  constexpr int kStages = many_stages(kTokens, kBits);
  const int shared_bytes = PlaneMany<kTokens, kBits, kStages>::shared_bytes(split);
  if (args)
    launch(&plane_many_kernel<kTokens, kBits, kStages>, dim3(static_cast<unsigned>(blocks)), kManyThreads, shared_bytes, stream, *args);
  return shared_bytes;
}

int visit(const ManyPlan& plan, const ManyArgs* args, cudaStream_t stream) {
  const ManySplit& split = plan.split;
  const int blocks = plan.blocks();
  if (plan.form.bits == 16) {
    if (plan.form.tokens == 8) return visit<8, 16>(split, args, blocks, stream);
    return plan.form.tokens == 16 ? visit<16, 16>(split, args, blocks, stream) : visit<32, 16>(split, args, blocks, stream);
  }
  if (plan.form.tokens == 16) return visit<16, 8>(split, args, blocks, stream);
  return visit<32, 8>(split, args, blocks, stream);
}

}  // namespace

int plane_many_shared(const ManyPlan& plan) { return visit(plan, nullptr, nullptr); }

void plane_many(const ManyArgs& args, const ManyPlan& plan, cudaStream_t stream) {
  visit(plan, &args, stream);
  if (plan.split.slices == 1) return;
  launch(&join_slices_kernel, dim3(static_cast<unsigned>(plan.split.ranges)), kJoinThreads, 0, stream, args);
}

}  // namespace tq::cuda
