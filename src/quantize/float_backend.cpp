#include "quantize/float_backend.h"

#include <algorithm>

#include "base/blas.h"
#include "codec/decode_matrix.h"

namespace tq {
namespace {

// What one thread multiplies at a time: tokens, and rows or columns of a matrix. Equal parts keep all threads busy to the end.
constexpr int64_t kTileTokens = 512, kTileWidth = 384;

// The equal parts of at most `edge` that a range is cut into.
struct Parts {
  int64_t size, count, edge;
  Parts(int64_t range, int64_t most) : size(range), count((range + most - 1) / most), edge(0) {
    if (count == 0) return;
    constexpr int64_t kUnit = 16;
    edge = ((range + count - 1) / count + kUnit - 1) / kUnit * kUnit;
    count = (range + edge - 1) / edge;
  }
  int64_t first(int64_t i) const { return i * edge; }
  int64_t length(int64_t i) const { return std::min(edge, size - first(i)); }
};

class FloatMatrix final : public Matrix {
 public:
  FloatMatrix(const PackedTensor& tensor, int64_t rows, int64_t expert)
      : Matrix(rows, tensor.columns()), tensor_(tensor), expert_(expert) {}
  std::string kernel(int64_t) const override { return "sgemm"; }
  uint64_t bytes() const override { return static_cast<uint64_t>(rows() * columns()) * sizeof(float); }
  // Decodes at the first call: a head whose input alone is measured never is.
  void decode(ThreadPool& threads) const {
    if (!values_.empty()) return;
    values_ = Buffer<float>::uninitialized(static_cast<size_t>(rows() * columns()));
    decode_matrix(tensor_, expert_, values_.data(), threads);
  }
  float* row(int64_t r) const { return values_.data() + r * columns(); }
  bool is_trainable = false;

 private:
  PackedTensor tensor_;
  int64_t expert_;
  mutable Buffer<float> values_;  // [R, C]
};

// The training operations of another backend, on matrices that are decoded.
class FloatTraining final : public Training {
 public:
  FloatTraining(Training& other, ThreadPool& threads, FloatProducts& products) : other_(other), threads_(threads), products_(products) {}

  Result<std::unique_ptr<Matrix>> prepare_trainable(const PackedTensor& tensor, int64_t expert) override {
    TQ_CHECK(tensor.shape.size() >= 2);
    auto matrix = std::make_unique<FloatMatrix>(tensor, tensor.shape[tensor.shape.size() - 2], expert);
    matrix->decode(threads_);
    matrix->is_trainable = true;
    return matrix;
  }
  float* weights(Matrix& matrix) override {
    const auto& own = static_cast<const FloatMatrix&>(matrix);
    return own.is_trainable ? own.row(0) : nullptr;
  }

  void linear(const LinearBackwardArgs& args) override {
    const auto& matrix = static_cast<const FloatMatrix&>(*args.matrix);
    matrix.decode(threads_);
    const int64_t columns = matrix.columns(), rows = matrix.rows();
    const Parts down(args.tokens, kTileTokens), across(columns, kTileWidth);
    threads_.run(across.count * down.count, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t y = tile / across.count, x = tile % across.count, t = down.first(y), k = across.first(x);
        products_.of_training({.rows = down.length(y),
                               .columns = across.length(x),
                               .depth = rows,
                               .left = args.gradient + t * rows,
                               .left_stride = rows,
                               .right = matrix.row(0) + k,
                               .right_stride = columns,
                               .output = args.input_gradient + t * columns + k,
                               .output_stride = columns,
                               .accumulate = args.accumulate},
                              thread);
      }
    });
  }
  void weight(const WeightGradientArgs& args) override {
    const Parts down(args.rows, kTileTokens), across(args.columns, kTileWidth);
    threads_.run(across.count * down.count, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t y = tile / across.count, x = tile % across.count, r = down.first(y), k = across.first(x);
        products_.of_training({.rows = down.length(y),
                               .columns = across.length(x),
                               .depth = args.tokens,
                               .left = args.gradient + args.first_row + r,
                               .left_stride = args.all_rows,
                               .is_left_transposed = true,
                               .right = args.input + k,
                               .right_stride = args.columns,
                               .output = args.weight_gradient + r * args.columns + k,
                               .output_stride = args.columns,
                               .accumulate = true},
                              thread);
      }
    });
  }
  void norm(const NormBackwardArgs& args) override { other_.norm(args); }
  void rotary(const RotaryArgs& args) override { other_.rotary(args); }
  void attend(const AttendBackwardArgs& args) override { other_.attend(args); }
  void gated(const GatedBackwardArgs& args) override { other_.gated(args); }
  void cross_entropy(const CrossEntropyArgs& args) override { other_.cross_entropy(args); }
  void divergence(const DivergenceArgs& args) override { other_.divergence(args); }
  void sample(const SampleArgs& args) override { other_.sample(args); }
  void squared_error(const SquaredErrorArgs& args) override { other_.squared_error(args); }
  void softcap(const SoftcapBackwardArgs& args) override { other_.softcap(args); }
  void scale_rows(const ScaleRowsArgs& args) override { other_.scale_rows(args); }
  void row_scale_gradient(const RowScaleGradientArgs& args) override { other_.row_scale_gradient(args); }
  void column_sum(const ColumnSumArgs& args) override { other_.column_sum(args); }
  void squares(const SquaresArgs& args) override { other_.squares(args); }
  void adam(const AdamArgs& args) override { other_.adam(args); }
  void product(const DenseProductArgs& args) override { other_.product(args); }
  Result<bool> solve(const SolveArgs& args) override { return other_.solve(args); }
  double dot(const float* a, const float* b, int64_t count) override { return other_.dot(a, b, count); }

 private:
  Training& other_;
  ThreadPool& threads_;
  FloatProducts& products_;
};

}  // namespace

void FloatProducts::exact(const Args& args) const {
  cblas_sgemm(CblasRowMajor, args.is_left_transposed ? CblasTrans : CblasNoTrans, args.is_right_transposed ? CblasTrans : CblasNoTrans,
              static_cast<int>(args.rows), static_cast<int>(args.columns), static_cast<int>(args.depth), 1.0f, args.left,
              static_cast<int>(args.left_stride), args.right, static_cast<int>(args.right_stride), args.accumulate ? 1.0f : 0.0f,
              args.output, static_cast<int>(args.output_stride));
}

void FloatProducts::of_training(const Args& args, int thread) {
  if (!bf16_) return exact(args);
  const auto operand = [](const float* values, int64_t stride, bool is_along) {
    return is_along ? cpu::Bf16Operand{values, stride, 1} : cpu::Bf16Operand{values, 1, stride};
  };
  cpu::bf16_product({.left = operand(args.left, args.left_stride, !args.is_left_transposed),
                     .right = operand(args.right, args.right_stride, args.is_right_transposed),
                     .output = args.output,
                     .output_stride = args.output_stride,
                     .rows = args.rows,
                     .columns = args.columns,
                     .depth = args.depth,
                     .accumulate = args.accumulate},
                    *bf16_, workspaces_[static_cast<size_t>(thread)]);
}

FloatBackend::FloatBackend(Backend& other, ThreadPool& threads, const cpu::Bf16Kernel* bf16)
    : other_(other), threads_(threads), products_(bf16, threads.size()) {
  use_one_blas_thread();
  if (other.training()) training_ = std::make_unique<FloatTraining>(*other.training(), threads, products_);
}

Result<std::unique_ptr<Matrix>> FloatBackend::prepare(const PackedTensor& tensor, int64_t expert) {
  TQ_CHECK(tensor.shape.size() >= 2);
  return std::make_unique<FloatMatrix>(tensor, tensor.shape[tensor.shape.size() - 2], expert);
}

void FloatBackend::linear(const LinearArgs& args) {
  use_one_blas_thread();
  struct Tile {
    const LinearJob* job;
    int64_t token, tokens, row, rows;
  };
  std::vector<Tile> tiles;
  const Parts down(args.tokens, kTileTokens);
  for (const LinearJob& job : args.jobs) {
    static_cast<const FloatMatrix&>(*job.matrix).decode(threads_);
    const Parts across(job.matrix->rows(), kTileWidth);
    for (int64_t y = 0; y < down.count; ++y)
      for (int64_t x = 0; x < across.count; ++x) tiles.push_back({&job, down.first(y), down.length(y), across.first(x), across.length(x)});
  }
  threads_.run(static_cast<int64_t>(tiles.size()), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const Tile& tile = tiles[static_cast<size_t>(i)];
      const auto& matrix = static_cast<const FloatMatrix&>(*tile.job->matrix);
      const int64_t rows = matrix.rows(), columns = matrix.columns();
      float* output = tile.job->output + tile.token * rows + tile.row;
      const float* bias = tile.job->bias;
      if (bias)
        for (int64_t t = 0; t < tile.tokens; ++t) std::copy_n(bias + tile.row, tile.rows, output + t * rows);
      const FloatProducts::Args product{.rows = tile.tokens,
                                        .columns = tile.rows,
                                        .depth = columns,
                                        .left = args.input + tile.token * columns,
                                        .left_stride = columns,
                                        .right = matrix.row(tile.row),
                                        .right_stride = columns,
                                        .is_right_transposed = true,
                                        .output = output,
                                        .output_stride = rows,
                                        .accumulate = bias != nullptr};
      if (args.precision == Precision::kTraining) products_.of_training(product, thread);
      else products_.exact(product);
    }
  });
}

}  // namespace tq
