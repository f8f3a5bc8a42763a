#include "kernels/cuda/quantizer.h"

#include "base/check.h"
#include "kernels/cuda/encode/grid_rounder.h"
#include "kernels/cuda/expect.h"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
// sqrt(weight) x for every token: the sum stays a Gram matrix, whatever is rounded on the way.
const float* CudaQuantizer::weighted(const MomentArgs& args) {
  if (!args.weight) return args.input;
  constexpr uint64_t kSize = sizeof(float);
  grow(scaled_, static_cast<uint64_t>(args.tokens * args.columns) * kSize), grow(weight_, static_cast<uint64_t>(args.tokens) * kSize);
  expect(
      cudaMemcpyAsync(weight_.as<void>(), args.weight, static_cast<size_t>(args.tokens) * sizeof(float), cudaMemcpyHostToDevice, stream_),
      "token weights");
  scale_tokens(args.input, weight_.as<float>(), scaled_.as<float>(), args.tokens, args.columns, stream_);
  return scaled_.as<float>();
}

void CudaQuantizer::second_moment(const MomentArgs& args) {
  const float one = 1.0f;
  const auto columns = static_cast<int>(args.columns);
  // Row-major below the diagonal is column-major above it.
  const cublasStatus_t status = cublasSsyrk(blas_, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N, columns, static_cast<int>(args.tokens), &one,
                                            weighted(args), columns, &one, args.sum, columns);
  TQ_CHECK(status == CUBLAS_STATUS_SUCCESS);
}

std::string CudaQuantizer::round(const RoundBatch& batch, std::vector<RoundedMatrix>& out) {
  expect(cudaStreamSynchronize(stream_), "waiting for the card");
  return round_on_device(batch, out);
}

uint64_t CudaQuantizer::free_bytes() const {
  size_t free = 0, total = 0;
  expect(cudaMemGetInfo(&free, &total), "free memory");
  return free;
}

}  // namespace tq::cuda
