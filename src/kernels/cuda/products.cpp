#include "kernels/cuda/products.h"

#include <algorithm>
#include <vector>

namespace tq::cuda {
namespace {

// Rows of a job's matrix.
struct Strip {
  const LinearJob* job;
  int64_t first, count, values;
};

// What is decoded at a time.
std::vector<std::vector<Strip>> strips_of(std::span<const LinearJob> jobs) {
  std::vector<std::vector<Strip>> turns;
  int64_t values = 0;  // of the last turn
  for (const LinearJob& job : jobs) {
    const int64_t rows = job.matrix->rows(), columns = job.matrix->columns();
    const int64_t most = strip_rows(rows, columns);
    for (int64_t first = 0; first < rows; first += most) {
      const int64_t count = std::min(most, rows - first);
      if (begins_turn(values, count * columns)) turns.emplace_back();
      turns.back().push_back({&job, first, count, count * columns});
    }
  }
  return turns;
}

const Weights& weights_of(const LinearJob& job) { return *static_cast<const CudaMatrix&>(*job.matrix).weights; }

// Calls `each` with runs of at most `most` jobs.
template <typename Each>
void in_runs(const std::vector<LinearJob>& jobs, size_t most, const Each& each) {
  for (size_t i = 0; i < jobs.size(); i += most) each(std::span(jobs).subspan(i, std::min(most, jobs.size() - i)));
}

// Jobs of planes and of floats may stand side by side.
struct Kinds {
  std::vector<LinearJob> planes, dense;

  explicit Kinds(std::span<const LinearJob> jobs, float* sum = nullptr) {
    for (LinearJob job : jobs) {
      if (sum) job.output = sum;
      (weights_of(job).is_planes ? planes : dense).push_back(job);
    }
  }
};

// Multiplied without cuBLAS.
bool is_few(int64_t tokens, Precision precision) { return tokens <= kMaxDenseTokens || precision == Precision::kInvariant; }

}  // namespace

Status Products::open(cublasHandle_t blas, cudaStream_t stream) {
  blas_ = blas, stream_ = stream;
  return plane_pass_.open();
}

void Products::run(const LinearArgs& args, const InputArgs& input, float* sum) {
  const Kinds kinds(args.jobs, sum);
  in_runs(kinds.planes, kMaxJobs, [&](auto jobs) { multiply_planes(args, input, jobs, sum != nullptr); });
  in_runs(kinds.dense, kMaxDenseJobs, [&](auto jobs) { multiply_dense(args, input, jobs, sum != nullptr); });
}

PlaneSteps Products::plane_steps(const CudaMatrix& matrix) const {
  const LinearJob job{.matrix = &matrix};
  return plane_pass_.steps({&job, 1});
}

bool Products::is_decoded(std::span<const LinearJob> jobs, int64_t tokens, Precision precision) const {
  if (precision != Precision::kInt8) return has_float_activations(precision);
  return tokens > plane_pass_.steps(jobs).decoded;
}

Status Products::reserve(std::span<const LinearJob> jobs, int64_t rows, Precision precision) {
  const Kinds kinds(jobs);
  Status status;
  in_runs(kinds.planes, kMaxJobs, [&](auto run) {
    if (status && is_decoded(run, rows, precision)) status = reserve(decoded_needs(run, rows, precision));
    const int64_t most = std::min<int64_t>(rows, plane_pass_.most_tokens(run, precision == Precision::kInvariant));
    for (int64_t tokens = 1; status && !has_float_activations(precision) && tokens <= most; ++tokens)
      status = plane_pass_.reserve(run, static_cast<int>(tokens), precision == Precision::kInvariant, generation_);
  });
  in_runs(kinds.dense, kMaxDenseJobs, [&](auto run) {
    for (const int64_t tokens : {std::min<int64_t>(rows, kMaxDenseTokens), rows})
      if (status) status = reserve(dense_needs(run, tokens, precision));
  });
  return status;
}

Status Products::reserve(const Needs& needs) {
  TQ_TRY(input_.reserve(needs.input, generation_));
  TQ_TRY(half_input_.reserve(needs.half_input, generation_));
  return decoded_.reserve(needs.decoded, generation_);
}

void Products::multiply_planes(const LinearArgs& args, const InputArgs& input, std::span<const LinearJob> jobs, bool adds) {
  if (is_decoded(jobs, args.tokens, args.precision)) return multiply_decoded(args, input, jobs, adds);
  const int64_t most = plane_pass_.most_tokens(jobs, args.precision == Precision::kInvariant);
  for (int64_t first = 0; first < args.tokens; first += most) {
    const int64_t count = std::min(most, args.tokens - first);
    InputArgs part = input;
    part.input += first * input.stride;
    if (input.prologue == Prologue::kGated) part.other += first * input.stride;
    std::vector<LinearJob> shifted(jobs.begin(), jobs.end());
    for (LinearJob& job : shifted) job.output += first * job.matrix->rows();
    plane_pass_.run(part, shifted, static_cast<int>(count), args.precision == Precision::kInvariant, adds, generation_, stream_);
  }
}

Products::Needs Products::decoded_needs(std::span<const LinearJob> jobs, int64_t tokens, Precision precision) {
  const int64_t size = has_float_activations(precision) ? sizeof(float) : sizeof(uint16_t);
  Needs needs{.input = tokens * weights_of(jobs[0]).columns * size};
  for (const auto& turn : strips_of(jobs)) {
    int64_t values = 0;
    for (const Strip& strip : turn) values += strip.values;
    needs.decoded = std::max(needs.decoded, values * size);
  }
  return needs;
}

// Prompts: the input rotated, the planes decoded to half (float for kFloat), a GEMM; as many rows at a time as there is memory for.
void Products::multiply_decoded(const LinearArgs& args, const InputArgs& input, std::span<const LinearJob> jobs, bool adds) {
  interrupt();
  const bool is_float = has_float_activations(args.precision);
  const Needs needs = decoded_needs(jobs, args.tokens, args.precision);
  auto* rotated = input_.get<std::byte>(needs.input, generation_);
  auto* decoded = decoded_.get<std::byte>(needs.decoded, generation_);
  cuda::rotate_input(quantize_args(weights_of(jobs[0]), input, static_cast<int>(args.tokens)), is_float ? nullptr : rotated,
                     is_float ? reinterpret_cast<float*>(rotated) : nullptr, stream_);
  const int64_t size = is_float ? sizeof(float) : sizeof(uint16_t);
  for (const auto& turn : strips_of(jobs)) {
    std::byte* to = decoded;
    for (const Strip& strip : turn) {
      DecodeArgs decode = decode_args(weights_of(*strip.job));
      if (is_float) decode.output = reinterpret_cast<float*>(to);
      else decode.half_output = to;
      decode.first = static_cast<int>(strip.first), decode.count = static_cast<int>(strip.count);
      cuda::decode(decode, stream_);
      to += strip.values * size;
    }
    const std::byte* from = decoded;
    for (const Strip& strip : turn) {
      gemm({.weight = from,
            .input = rotated,
            .type = is_float ? CUDA_R_32F : CUDA_R_16F,
            .first = strip.first,
            .rows = strip.count,
            .is_short = args.precision == Precision::kTraining},
           *strip.job, args.tokens, adds);
      from += strip.values * size;
    }
  }
  for (const LinearJob& job : jobs) add_bias(job, args.tokens);
}

// output[T, rows of the part] (+)= input[T, C] · weight[rows of the part, C]^T
void Products::gemm(const Part& part, const LinearJob& job, int64_t tokens, bool adds) {
  const float one = 1.0f, sum = adds ? 1.0f : 0.0f;
  const Weights& weights = weights_of(job);
  const cublasStatus_t status = cublasGemmEx(
      blas_, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(part.rows), static_cast<int>(tokens), weights.columns, &one, part.weight, part.type,
      weights.columns, part.input, part.type, weights.columns, &sum, job.output + part.first, CUDA_R_32F, weights.rows,
      part.is_short && part.type == CUDA_R_32F ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  TQ_CHECK(status == CUBLAS_STATUS_SUCCESS);
}

void Products::add_bias(const LinearJob& job, int64_t tokens) const {
  if (job.bias) cuda::add_bias(job.output, job.bias, tokens, static_cast<int>(job.matrix->rows()), stream_);
}

Products::Needs Products::dense_needs(std::span<const LinearJob> jobs, int64_t tokens, Precision precision) {
  const bool is_exact = has_float_activations(precision), few = is_few(tokens, precision);
  const int64_t values = tokens * weights_of(jobs[0]).columns;
  Needs needs;
  for (const LinearJob& job : jobs) {
    const bool is_half = weights_of(job).type == DenseType::kF16;
    if (few || is_exact || !is_half) needs.input = values * static_cast<int64_t>(sizeof(float));
    if (!few && !is_exact && is_half) needs.half_input = values * static_cast<int64_t>(sizeof(uint16_t));
    if (!few && is_exact && is_half)
      needs.decoded = std::max(needs.decoded, job.matrix->rows() * job.matrix->columns() * static_cast<int64_t>(sizeof(float)));
  }
  return needs;
}

void Products::multiply_dense(const LinearArgs& args, const InputArgs& input, std::span<const LinearJob> jobs, bool adds) {
  interrupt();
  const int columns = weights_of(jobs[0]).columns, tokens = static_cast<int>(args.tokens);
  const Needs needs = dense_needs(jobs, args.tokens, args.precision);
  const float* values = input.input;
  if (needs.input > 0 && input.prologue != Prologue::kNone) {
    auto* made = reinterpret_cast<float*>(input_.get<std::byte>(needs.input, generation_));
    cuda::prepare_input(input, made, nullptr, tokens, columns, stream_);
    values = made;
  }
  if (is_few(args.tokens, args.precision)) {
    for (int64_t first = 0; first < args.tokens; first += kMaxDenseTokens)
      dense_pass(values, jobs, first, std::min<int64_t>(kMaxDenseTokens, args.tokens - first), adds);
    return;
  }
  auto* halves = half_input_.get<std::byte>(needs.half_input, generation_);
  auto* wide = reinterpret_cast<float*>(decoded_.get<std::byte>(needs.decoded, generation_));
  if (needs.half_input > 0) cuda::prepare_input(input, nullptr, halves, tokens, columns, stream_);
  for (const LinearJob& job : jobs) {
    const Weights& weights = weights_of(job);
    Part part{.weight = weights.values.as<void>(),
              .input = values,
              .type = CUDA_R_32F,
              .rows = weights.rows,
              .is_short = weights.is_trainable || args.precision == Precision::kTraining};
    if (weights.type == DenseType::kF16 && !has_float_activations(args.precision)) {
      part.input = halves, part.type = CUDA_R_16F;
    } else if (weights.type == DenseType::kF16) {
      cuda::widen(part.weight, wide, static_cast<int64_t>(weights.rows) * weights.columns, stream_);
      part.weight = wide;
    }
    gemm(part, job, args.tokens, adds);
    add_bias(job, args.tokens);
  }
}

// Up to kMaxDenseTokens from the `first` on.
void Products::dense_pass(const float* values, std::span<const LinearJob> jobs, int64_t first, int64_t tokens, bool adds) {
  DenseArgs dense;
  dense.columns = weights_of(jobs[0]).columns, dense.tokens = static_cast<int>(tokens), dense.adds = adds;
  dense.input = values + first * dense.columns;
  for (const LinearJob& job : jobs) {
    const Weights& weights = weights_of(job);
    dense.job[dense.jobs++] = {.weight = weights.values.as<void>(),
                               .bias = job.bias,
                               .output = job.output + first * weights.rows,
                               .rows = weights.rows,
                               .first_block = dense.blocks,
                               .type = weights.type};
    dense.blocks += cuda::dense_blocks(weights.rows);
  }
  cuda::dense(dense, stream_);
}

}  // namespace tq::cuda
