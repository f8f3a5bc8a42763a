#include "kernels/cuda/quantizer.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "codec/grid/grid.h"
#include "kernels/cuda/encode/grid_rounder.h"
#include "kernels/cuda/expect.h"
#include "kernels/cuda/objective_ops.h"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int64_t kMomentRows = 2048;  // of a second moment that one product sums

}  // namespace

Rotation Rotation::of(const uint8_t* sign, int64_t columns) {
  const auto block = static_cast<int>(grid::hadamard_block(columns));
  return {sign, columns, block, 1.0f / std::sqrt(static_cast<float>(block))};
}

const float* CudaQuantizer::uploaded_weights(const float* weight, int64_t tokens) {
  if (!weight) return nullptr;
  const auto bytes = static_cast<uint64_t>(tokens) * sizeof(float);
  grow(weight_, bytes);
  expect(cudaMemcpyAsync(weight_.as<void>(), weight, bytes, cudaMemcpyHostToDevice, stream_), "token weights");
  return weight_.as<float>();
}

// sqrt(weight) x for every token: the sum stays a Gram matrix, whatever is rounded on the way.
const float* CudaQuantizer::weighted(const MomentArgs& args) {
  const float* weight = uploaded_weights(args.weight, args.tokens);
  if (!weight) return args.input;
  grow(scaled_, static_cast<uint64_t>(args.tokens * args.columns) * sizeof(float));
  scale_tokens(args.input, weight, scaled_.as<float>(), args.tokens, args.columns, stream_);
  return scaled_.as<float>();
}

// Bands of rows up to the diagonal's end.
void CudaQuantizer::second_moment(const MomentArgs& args) {
  const float one = 1.0f;
  const float* input = weighted(args);
  const auto columns = static_cast<int>(args.columns);
  for (int64_t first = 0; first < args.columns; first += kMomentRows) {
    const int64_t last = std::min(args.columns, first + kMomentRows);
    // Row-major is column-major of the transpose: sum^T[last, rows] += input^T[last, T] · input[T, rows].
    const cublasStatus_t status =
        cublasGemmEx(blas_, CUBLAS_OP_N, CUBLAS_OP_T, static_cast<int>(last), static_cast<int>(last - first), static_cast<int>(args.tokens),
                     &one, input, CUDA_R_32F, columns, input + first, CUDA_R_32F, columns, &one, args.sum + first * args.columns,
                     CUDA_R_32F, columns, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_GEMM_DEFAULT);
    TQ_CHECK(status == CUBLAS_STATUS_SUCCESS);
  }
}

void CudaQuantizer::input_error(const InputErrorArgs& args) {
  const auto bytes = static_cast<uint64_t>((args.columns + 7) / 8);
  grow(sign_, bytes);
  expect(cudaMemcpyAsync(sign_.as<void>(), args.sign, bytes, cudaMemcpyHostToDevice, stream_), "signs");
  cuda::input_error(Rotation::of(sign_.as<uint8_t>(), args.columns), args.input, uploaded_weights(args.weight, args.tokens), args.tokens,
                    args.sum, stream_);
}

// U is the mirror image, at the anti-diagonal, of the lower Cholesky factor of H's mirror image.
std::string CudaQuantizer::factor(const FactorArgs& args, bool& is_definite) {
  const std::lock_guard lock(solving_);
  const auto bytes = static_cast<uint64_t>(args.columns * args.columns) * sizeof(float);
  auto from = DeviceMemory::allocate(bytes), mirrored = DeviceMemory::allocate(bytes),
       root = DeviceMemory::allocate(static_cast<uint64_t>(args.columns) * sizeof(float));
  for (const auto* each : {&from, &mirrored, &root})
    if (!*each) return each->error().message;
  auto work = solver_.work(args.columns, mirrored->as<float>());
  if (!work) return work.error().message;
  expect(cudaMemcpyAsync(from->as<void>(), args.hessian, bytes, cudaMemcpyHostToDevice, stream_), "upload");
  mirror(from->as<float>(), mirrored->as<float>(), args.columns, stream_);
  is_definite = solver_.factor(mirrored->as<float>(), args.columns, *work);
  normalise_mirror(mirrored->as<float>(), from->as<float>(), root->as<float>(), args.columns, stream_);
  expect(cudaMemcpyAsync(args.feedback, from->as<void>(), bytes, cudaMemcpyDeviceToHost, stream_), "download");
  expect(cudaMemcpyAsync(args.root, root->as<void>(), root->bytes(), cudaMemcpyDeviceToHost, stream_), "download");
  expect(cudaStreamSynchronize(stream_), "waiting for the card");
  return {};
}

std::string CudaQuantizer::make_objective(const ObjectiveArgs& args, DeviceObjective& out) {
  const std::lock_guard lock(solving_);
  const int64_t n = args.columns;
  auto mirrored = DeviceMemory::allocate(static_cast<uint64_t>(n * n) * sizeof(float)),
       diagonal = DeviceMemory::allocate(static_cast<uint64_t>(n) * sizeof(float)),
       sign = DeviceMemory::of(args.sign, static_cast<uint64_t>((n + 7) / 8));
  for (const auto* each : {&mirrored, &diagonal, &sign})
    if (!*each) return each->error().message;
  auto work = solver_.work(n, mirrored->as<float>());
  if (!work) return work.error().message;
  std::vector<float> host(static_cast<size_t>(n));
  const auto download_diagonal = [&] {
    expect(cudaMemcpyAsync(host.data(), diagonal->as<void>(), diagonal->bytes(), cudaMemcpyDeviceToHost, stream_), "download");
    expect(cudaStreamSynchronize(stream_), "waiting for the card");
  };
  // Q H Q^T: rows of H, then what were its columns.
  const Rotation rotation = Rotation::of(sign->as<uint8_t>(), n);
  symmetrise(args.hessian, n, args.weight > 0 ? static_cast<float>(1.0 / args.weight) : 0.0f, stream_);
  copy_diagonal(args.hessian, n, diagonal->as<float>(), stream_);
  download_diagonal();
  const auto zeros = static_cast<int64_t>(std::count(host.begin(), host.end(), 0.0f));
  rotate_to_columns(rotation, args.hessian, n, mirrored->as<float>(), n, stream_);
  rotate_rows(rotation, mirrored->as<float>(), n, args.hessian, stream_);
  copy_diagonal(args.hessian, n, diagonal->as<float>(), stream_);
  download_diagonal();
  double trace = 0;
  for (const float each : host) trace += static_cast<double>(each);
  out = {.is_zero = !(trace > 0) || !std::isfinite(trace), .damping = 0, .trace = trace, .zeros = zeros, .diagonal = {}};
  const double mean = trace / static_cast<double>(n);
  double added = 0;
  for (double damping = args.damping; !out.is_zero && out.diagonal.empty(); damping *= 10) {
    TQ_CHECK(damping < 1e6);  // a diagonal that dominates always factors
    add_to_diagonal(args.hessian, n, static_cast<float>((damping - added) * mean), stream_);
    added = damping, out.damping = damping * mean;
    mirror(args.hessian, mirrored->as<float>(), n, stream_);
    const bool is_definite = solver_.factor(mirrored->as<float>(), n, *work);
    normalise_mirror(mirrored->as<float>(), args.feedback, diagonal->as<float>(), n, stream_);
    download_diagonal();
    if (!is_definite || !std::all_of(host.begin(), host.end(), [](float root) { return root > 0; })) continue;
    for (const float root : host) out.diagonal.push_back(static_cast<double>(root) * static_cast<double>(root));
  }
  return {};
}

std::string CudaQuantizer::round(const RoundBatch& batch, std::vector<RoundedMatrix>& out) {
  expect(cudaStreamSynchronize(stream_), "waiting for the card");
  return round_on_device(batch, staging_, out);
}

uint64_t CudaQuantizer::free_bytes() const {
  size_t free = 0, total = 0;
  expect(cudaMemGetInfo(&free, &total), "free memory");
  return free;
}

}  // namespace tq::cuda
