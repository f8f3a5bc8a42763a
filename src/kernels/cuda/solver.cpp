#include "kernels/cuda/solver.h"

#include "base/check.h"
#include "kernels/cuda/expect.h"

namespace tq::cuda {
namespace {

// Row-major below the diagonal is column-major above it.
constexpr cublasFillMode_t kLower = CUBLAS_FILL_MODE_UPPER;

// The last float of the work memory is where the solver says how it went.
int64_t length_of(const DeviceMemory& work) { return static_cast<int64_t>(work.bytes() / sizeof(float)) - 1; }
int* status_of(const DeviceMemory& work) { return reinterpret_cast<int*>(work.as<float>() + length_of(work)); }

}  // namespace

Solver::~Solver() {
  if (handle_) cusolverDnDestroy(handle_);
}

Result<DeviceMemory> Solver::work(int64_t n, float* matrix) {
  if (!handle_) {
    if (cusolverDnCreate(&handle_) != CUSOLVER_STATUS_SUCCESS)
      return fail(ErrorCode::kNoResource, "the card has no memory left for cuSOLVER");
    cusolverDnSetStream(handle_, stream_);
  }
  const auto size = static_cast<int>(n);
  int length = 0;
  TQ_CHECK(cusolverDnSpotrf_bufferSize(handle_, kLower, size, matrix, size, &length) == CUSOLVER_STATUS_SUCCESS);
  return DeviceMemory::allocate((static_cast<uint64_t>(length) + 1) * sizeof(float));
}

bool Solver::factor(float* matrix, int64_t n, const DeviceMemory& work) {
  const auto size = static_cast<int>(n);
  TQ_CHECK(cusolverDnSpotrf(handle_, kLower, size, matrix, size, work.as<float>(), static_cast<int>(length_of(work)), status_of(work)) ==
           CUSOLVER_STATUS_SUCCESS);
  int info = 0;
  expect(cudaMemcpyAsync(&info, status_of(work), sizeof info, cudaMemcpyDeviceToHost, stream_), "download");
  expect(cudaStreamSynchronize(stream_), "waiting for the card");
  return info == 0;
}

void Solver::solve(const float* factor, int64_t n, float* right, int64_t rows, const DeviceMemory& work) {
  const auto size = static_cast<int>(n);
  TQ_CHECK(cusolverDnSpotrs(handle_, kLower, size, static_cast<int>(rows), factor, size, right, size, status_of(work)) ==
           CUSOLVER_STATUS_SUCCESS);
}

}  // namespace tq::cuda
