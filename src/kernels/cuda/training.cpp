#include "kernels/cuda/training.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cuda/expect.h"
#include "kernels/cuda/objective_ops.h"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

const Weights& weights_of(const Matrix& matrix) { return *static_cast<const CudaMatrix&>(matrix).weights; }

}  // namespace

Result<std::unique_ptr<Matrix>> CudaTraining::prepare_trainable(const PackedTensor& tensor, int64_t expert) {
  TQ_ASSIGN(std::shared_ptr<const Weights> weights, load_floats(tensor, expert, threads_, stream_));
  return std::make_unique<CudaMatrix>(std::move(weights));
}

float* CudaTraining::weights(Matrix& matrix) {
  const Weights& own = weights_of(matrix);
  return own.is_trainable ? own.values.as<float>() : nullptr;
}

// Rows [first, first + count) as floats, [count, C], in the basis that the matrix is multiplied in.
const float* CudaTraining::widened(const Weights& weights, int64_t first, int64_t count) {
  if (!weights.is_planes && weights.type == DenseType::kF32) return weights.values.as<float>() + first * weights.columns;
  auto* out = scratch<float>(decoded_, count * weights.columns);
  if (weights.is_planes) {
    DecodeArgs decode = decode_args(weights);
    decode.first = static_cast<int>(first), decode.count = static_cast<int>(count), decode.output = out;
    cuda::decode(decode, stream_);
  } else {
    cuda::widen(weights.values.as<uint16_t>() + first * weights.columns, out, count * weights.columns, stream_);
  }
  return out;
}

// input_gradient[T, C] (+)= gradient[T, R] · W[R, C], a stretch of rows at a time.
void CudaTraining::linear(const LinearBackwardArgs& args) {
  const Weights& weights = weights_of(*args.matrix);
  const int64_t rows = weights.rows, columns = weights.columns;
  float* output = weights.is_planes ? scratch<float>(rotated_, args.tokens * columns) : args.input_gradient;
  const int64_t stretch = strip_rows(rows, columns);
  for (int64_t first = 0; first < rows; first += stretch) {
    const int64_t count = std::min(stretch, rows - first);
    multiply({blas_, stream_}, {.a = {args.gradient + first, rows, 0},
                                .b = {widened(weights, first, count), columns, 0},
                                .out = output,
                                .out_stride = columns,
                                .m = args.tokens,
                                .n = columns,
                                .k = count,
                                .accumulate = first > 0 || (args.accumulate && !weights.is_planes)});
  }
  if (!weights.is_planes) return;
  unrotate({.input = output,
            .output = args.input_gradient,
            .sign = weights.sign.as<uint8_t>(),
            .tokens = static_cast<int>(args.tokens),
            .columns = weights.columns,
            .hadamard = weights.hadamard,
            .accumulate = args.accumulate},
           stream_);
}

void CudaTraining::weight(const WeightGradientArgs& args) {
  multiply({blas_, stream_}, {.a = {args.gradient + args.first_row, args.all_rows, 0},
                              .b = {args.input, args.columns, 0},
                              .transpose_a = true,
                              .out = args.weight_gradient,
                              .out_stride = args.columns,
                              .m = args.rows,
                              .n = args.columns,
                              .k = args.tokens,
                              .accumulate = true});
}

void CudaTraining::norm(const NormBackwardArgs& args) {
  norm_back({.input = args.input,
             .weight = args.weight,
             .gradient = args.gradient,
             .input_gradient = args.input_gradient,
             .weight_gradient = args.weight_gradient,
             .root = scratch<float>(roots_, args.count),
             .count = args.count,
             .width = static_cast<int>(args.width),
             .epsilon = args.epsilon,
             .offset = args.offset},
            stream_);
}

// The transpose of a rotation is that by the opposite angle.
void CudaTraining::rotary(const RotaryArgs& args) {
  std::vector<float> opposite(args.inv_freq.begin(), args.inv_freq.end());
  for (float& each : opposite) each = -each;
  RotaryArgs back = args;
  back.inv_freq = opposite;
  backend_.rotary(back);
}

void CudaTraining::gated(const GatedBackwardArgs& args) {
  gated_back({.kind = static_cast<int>(args.kind),
              .gate = args.gate,
              .up = args.up,
              .gradient = args.gradient,
              .gate_gradient = args.gate_gradient,
              .up_gradient = args.up_gradient,
              .tokens = args.tokens,
              .width = args.width,
              .stride = args.stride},
             stream_);
}

void CudaTraining::cross_entropy(const CrossEntropyArgs& args) {
  const auto tokens = static_cast<int64_t>(args.labels.size());
  auto* label = scratch<int32_t>(labels_, tokens);
  auto* loss = scratch<double>(doubles_, tokens);
  backend_.upload(label, args.labels.data(), args.labels.size_bytes());
  cuda::cross_entropy({args.logits, label, args.gradient, loss, tokens, static_cast<int>(args.vocabulary)}, stream_);
  download(args.loss, loss, tokens);
}

void CudaTraining::divergence(const DivergenceArgs& args) {
  auto* loss = scratch<double>(doubles_, args.tokens);
  cuda::divergence({args.logits, args.reference, args.gradient, loss, args.tokens, static_cast<int>(args.vocabulary)}, stream_);
  download(args.loss, loss, args.tokens);
}

void CudaTraining::sample(const SampleArgs& args) {
  const auto tokens = static_cast<int64_t>(args.uniform.size());
  auto* label = scratch<int32_t>(labels_, tokens);
  auto* uniform = scratch<double>(doubles_, tokens);
  backend_.upload(uniform, args.uniform.data(), args.uniform.size_bytes());
  cuda::sample({args.logits, uniform, label, tokens, static_cast<int>(args.vocabulary)}, stream_);
  download(args.label, label, tokens);
}

void CudaTraining::squared_error(const SquaredErrorArgs& args) {
  auto* loss = scratch<double>(doubles_, args.tokens);
  cuda::squared_error({args.output, args.target, args.weight, args.gradient, loss, args.tokens, args.width, args.scale}, stream_);
  if (!args.loss) return;
  std::vector<double> each(static_cast<size_t>(args.tokens));
  download(each.data(), loss, args.tokens);
  *args.loss += std::accumulate(each.begin(), each.end(), 0.0);
}

void CudaTraining::softcap(const SoftcapBackwardArgs& args) { softcap_back(args.output, args.gradient, args.count, args.cap, stream_); }

void CudaTraining::scale_rows(const ScaleRowsArgs& args) {
  cuda::scale_rows(args.values, args.factor, args.rows * args.columns, args.columns, stream_);
}

void CudaTraining::row_scale_gradient(const RowScaleGradientArgs& args) {
  cuda::row_scale_gradient({args.gradient, args.output, args.bias, args.sum, args.tokens, static_cast<int>(args.rows)}, stream_);
}

void CudaTraining::column_sum(const ColumnSumArgs& args) {
  cuda::column_sum({.gradient = args.gradient, .sum = args.sum, .tokens = args.tokens, .rows = static_cast<int>(args.rows)}, stream_);
}

void CudaTraining::squares(const SquaresArgs& args) {
  if (args.row)
    row_squares({.gradient = args.gradient, .sum = args.row, .tokens = args.tokens, .rows = static_cast<int>(args.rows)}, stream_);
  if (!args.token && !args.finite) return;
  auto* flag = args.finite ? scratch<int32_t>(flag_, 1) : nullptr;
  if (flag) expect(cudaMemsetAsync(flag, 0, sizeof *flag, stream_), "zeroing");
  token_squares({args.gradient, args.token, flag, args.tokens, static_cast<int>(args.rows)}, stream_);
  if (!flag) return;
  int32_t found = 0;
  download(&found, flag, 1);
  *args.finite = found == 0;
}

void CudaTraining::adam(const AdamArgs& args) {
  const auto correct = [&](float beta) {
    return static_cast<float>(1 / (1 - std::pow(static_cast<double>(beta), static_cast<double>(args.step))));
  };
  cuda::adam({.value = args.value,
              .gradient = args.gradient,
              .first = args.first,
              .second = args.second,
              .count = args.count,
              .rate = args.rate,
              .beta1 = args.beta1,
              .beta2 = args.beta2,
              .epsilon = args.epsilon,
              .gradient_scale = args.gradient_scale,
              .correct1 = correct(args.beta1),
              .correct2 = correct(args.beta2)},
             stream_);
}

double CudaTraining::dot(const float* a, const float* b, int64_t count) {
  auto* partial = scratch<double>(doubles_, kDotBlocks);
  cuda::dot(a, b, count, partial, stream_);
  std::vector<double> each(kDotBlocks);
  download(each.data(), partial, kDotBlocks);
  return std::accumulate(each.begin(), each.end(), 0.0);
}

void CudaTraining::product(const DenseProductArgs& args) {
  multiply({blas_, stream_}, {.a = {args.left, args.depth, 0},
                              .b = {args.right, args.columns, 0},
                              .out = args.output,
                              .out_stride = args.columns,
                              .m = args.rows,
                              .n = args.columns,
                              .k = args.depth,
                              .accumulate = args.accumulate,
                              .is_exact = true});
}

Result<bool> CudaTraining::solve(const SolveArgs& args) {
  TQ_ASSIGN(const DeviceMemory work, solver_.work(args.columns, args.matrix));
  float* diagonal = scratch<float>(roots_, args.columns);
  copy_diagonal(args.matrix, args.columns, diagonal, stream_);
  std::vector<float> host(static_cast<size_t>(args.columns));
  download(host.data(), diagonal, args.columns);
  const double trace = std::accumulate(host.begin(), host.end(), 0.0);
  add_to_diagonal(args.matrix, args.columns, static_cast<float>(args.ridge * trace / static_cast<double>(args.columns)), stream_);
  if (!solver_.factor(args.matrix, args.columns, work)) return false;
  solver_.solve(args.matrix, args.columns, args.right, args.rows, work);
  expect(cudaStreamSynchronize(stream_), "waiting for the card");  // before `work` goes
  return true;
}

}  // namespace tq::cuda
