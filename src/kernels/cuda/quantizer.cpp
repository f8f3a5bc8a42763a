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

CudaQuantizer::~CudaQuantizer() {
  if (solver_) cusolverDnDestroy(solver_);
}

std::string CudaQuantizer::open_solver() {
  if (solver_) return {};
  if (cusolverDnCreate(&solver_) != CUSOLVER_STATUS_SUCCESS) return "the card has no memory left for cuSOLVER";
  cusolverDnSetStream(solver_, stream_);
  return {};
}

// U is the mirror image, at the anti-diagonal, of the lower Cholesky factor of H's mirror image. Row-major below the diagonal is
// column-major above it.
std::string CudaQuantizer::factor(const FactorArgs& args, bool& is_definite) {
  const std::lock_guard lock(solving_);
  if (std::string error = open_solver(); !error.empty()) return error;
  const auto n = static_cast<int>(args.columns);
  const auto bytes = static_cast<uint64_t>(args.columns * args.columns) * sizeof(float);
  auto from = DeviceMemory::allocate(bytes), mirrored = DeviceMemory::allocate(bytes),
       root = DeviceMemory::allocate(args.columns * sizeof(float));
  for (const auto* each : {&from, &mirrored, &root})
    if (!*each) return each->error().message;
  expect(cudaMemcpyAsync(from->as<void>(), args.hessian, bytes, cudaMemcpyHostToDevice, stream_), "upload");
  mirror(from->as<float>(), mirrored->as<float>(), args.columns, stream_);
  int length = 0;
  TQ_CHECK(cusolverDnSpotrf_bufferSize(solver_, CUBLAS_FILL_MODE_UPPER, n, mirrored->as<float>(), n, &length) == CUSOLVER_STATUS_SUCCESS);
  auto work = DeviceMemory::allocate((static_cast<uint64_t>(length) + 1) * sizeof(float));
  if (!work) return work.error().message;
  auto* status = reinterpret_cast<int*>(work->as<float>() + length);
  TQ_CHECK(cusolverDnSpotrf(solver_, CUBLAS_FILL_MODE_UPPER, n, mirrored->as<float>(), n, work->as<float>(), length, status) ==
           CUSOLVER_STATUS_SUCCESS);
  normalise_mirror(mirrored->as<float>(), from->as<float>(), root->as<float>(), args.columns, stream_);
  int info = 0;
  expect(cudaMemcpyAsync(&info, status, sizeof info, cudaMemcpyDeviceToHost, stream_), "download");
  expect(cudaMemcpyAsync(args.feedback, from->as<void>(), bytes, cudaMemcpyDeviceToHost, stream_), "download");
  expect(cudaMemcpyAsync(args.root, root->as<void>(), root->bytes(), cudaMemcpyDeviceToHost, stream_), "download");
  expect(cudaStreamSynchronize(stream_), "waiting for the card");
  is_definite = info == 0;
  return {};
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
