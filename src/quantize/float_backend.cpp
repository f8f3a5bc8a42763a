#include "quantize/float_backend.h"

#include "codec/decode_matrix.h"

namespace tq {
namespace {

class FloatMatrix final : public Matrix {
 public:
  FloatMatrix(const PackedTensor& tensor, int64_t rows, int64_t expert)
      : Matrix(rows, tensor.columns()), tensor_(tensor), expert_(expert) {}
  std::string kernel(int64_t) const override { return "float"; }
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
  FloatTraining(Training& other, FloatProducts& products) : other_(other), products_(products) {}

  Result<std::unique_ptr<Matrix>> prepare_trainable(const PackedTensor& tensor, int64_t expert) override {
    TQ_CHECK(tensor.shape.size() >= 2);
    auto matrix = std::make_unique<FloatMatrix>(tensor, tensor.shape[tensor.shape.size() - 2], expert);
    matrix->decode(products_.threads());
    matrix->is_trainable = true;
    return matrix;
  }
  float* weights(Matrix& matrix) override {
    const auto& own = static_cast<const FloatMatrix&>(matrix);
    return own.is_trainable ? own.row(0) : nullptr;
  }

  void linear(const LinearBackwardArgs& args) override {
    const auto& matrix = static_cast<const FloatMatrix&>(*args.matrix);
    matrix.decode(products_.threads());
    products_.run({.rows = args.tokens,
                   .columns = matrix.columns(),
                   .depth = matrix.rows(),
                   .left = args.gradient,
                   .left_stride = matrix.rows(),
                   .right = matrix.row(0),
                   .right_stride = matrix.columns(),
                   .output = args.input_gradient,
                   .output_stride = matrix.columns(),
                   .accumulate = args.accumulate},
                  ProductPrecision::kTraining);
  }
  void weight(const WeightGradientArgs& args) override { products_.run(product_of(args), ProductPrecision::kTraining); }
  void norm(const NormBackwardArgs& args) override { other_.norm(args); }
  void rotary(const RotaryArgs& args) override { other_.rotary(args); }
  void attend(const AttendBackwardArgs& args) override {
    AttendBackwardArgs rounded = args;
    if (products_.rounds_training()) rounded.precision = Precision::kTraining;
    other_.attend(rounded);
  }
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
  FloatProducts& products_;
};

}  // namespace

FloatBackend::FloatBackend(Backend& other, ThreadPool& threads, const cpu::Bf16Kernel* bf16) : other_(other), products_(threads, bf16) {
  if (other.training()) training_ = std::make_unique<FloatTraining>(*other.training(), products_);
}

Result<std::unique_ptr<Matrix>> FloatBackend::prepare(const PackedTensor& tensor, int64_t expert) {
  TQ_CHECK(tensor.shape.size() >= 2);
  return std::make_unique<FloatMatrix>(tensor, tensor.shape[tensor.shape.size() - 2], expert);
}

void FloatBackend::linear(const LinearArgs& args) {
  std::vector<FloatProduct> products;
  for (const LinearJob& job : args.jobs) {
    const auto& matrix = static_cast<const FloatMatrix&>(*job.matrix);
    matrix.decode(products_.threads());
    products.push_back({.rows = args.tokens,
                        .columns = matrix.rows(),
                        .depth = matrix.columns(),
                        .left = args.input,
                        .left_stride = matrix.columns(),
                        .right = matrix.row(0),
                        .right_stride = matrix.columns(),
                        .is_right_transposed = true,
                        .output = job.output,
                        .output_stride = matrix.rows(),
                        .bias = job.bias});
  }
  products_.run(products, args.precision == Precision::kTraining ? ProductPrecision::kTraining : ProductPrecision::kFloat);
}

}  // namespace tq
