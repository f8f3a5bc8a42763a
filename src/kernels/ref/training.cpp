#include "kernels/ref/training.h"

#include "kernels/ref/backward_ops.h"
#include "kernels/ref/matrix.h"
#include "kernels/ref/training_ops.h"

namespace tq::ref {
namespace {

class RefTraining final : public Training {
 public:
  explicit RefTraining(ThreadPool& threads) : threads_(threads) {}

  Result<std::unique_ptr<Matrix>> prepare_trainable(const PackedTensor& tensor, int64_t expert) override {
    TQ_ASSIGN(std::unique_ptr<RefMatrix> matrix, decode_matrix(tensor, expert, threads_));
    matrix->is_trainable = true;
    return matrix;
  }
  float* weights(Matrix& matrix) override {
    auto& own = static_cast<RefMatrix&>(matrix);
    return own.is_trainable ? own.values.data() : nullptr;
  }
  void linear(const LinearBackwardArgs& args) override {
    const auto& matrix = static_cast<const RefMatrix&>(*args.matrix);
    matmul_backward({.weight = matrix.values.data(),
                     .gradient = args.gradient,
                     .input_gradient = args.input_gradient,
                     .tokens = args.tokens,
                     .rows = matrix.rows(),
                     .columns = matrix.columns(),
                     .accumulate = args.accumulate});
  }
  void weight(const WeightGradientArgs& args) override { weight_gradient(args); }
  void norm(const NormBackwardArgs& args) override { norm_backward(args); }
  void rotary(const RotaryArgs& args) override { rotary_backward(args); }
  void attend(const AttendBackwardArgs& args) override { attend_backward(args); }
  void gated(const GatedBackwardArgs& args) override { gated_backward(args); }
  void cross_entropy(const CrossEntropyArgs& args) override { ref::cross_entropy(args); }
  void divergence(const DivergenceArgs& args) override { ref::divergence(args); }
  void sample(const SampleArgs& args) override { ref::sample(args); }
  void squared_error(const SquaredErrorArgs& args) override { ref::squared_error(args); }
  void softcap(const SoftcapBackwardArgs& args) override { softcap_backward(args); }
  void scale_rows(const ScaleRowsArgs& args) override { ref::scale_rows(args); }
  void row_scale_gradient(const RowScaleGradientArgs& args) override { ref::row_scale_gradient(args); }
  void column_sum(const ColumnSumArgs& args) override { ref::column_sum(args); }
  void squares(const SquaresArgs& args) override { ref::squares(args); }
  void adam(const AdamArgs& args) override { ref::adam(args); }
  void product(const DenseProductArgs& args) override { ref::product(args); }
  Result<bool> solve(const SolveArgs& args) override { return ref::solve(args); }
  double dot(const float* a, const float* b, int64_t count) override { return ref::dot(a, b, count); }

 private:
  ThreadPool& threads_;
};

}  // namespace

std::unique_ptr<Training> make_training(ThreadPool& threads) { return std::make_unique<RefTraining>(threads); }

}  // namespace tq::ref
