#include "kernels/ref/training.h"

#include "kernels/ref/backward_ops.h"
#include "kernels/ref/matrix.h"

namespace tq::ref {
namespace {

class RefTraining final : public Training {
 public:
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
};

}  // namespace

std::unique_ptr<Training> make_training() { return std::make_unique<RefTraining>(); }

}  // namespace tq::ref
