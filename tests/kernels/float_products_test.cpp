#include "kernels/float_products.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace tq {
namespace {

std::vector<float> gaussians(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& each : out) each = static_cast<float>(rng.gaussian());
  return out;
}

constexpr int64_t kRows = 150, kColumns = 210, kDepth = 900;

// left [rows, depth] or its transpose, right [columns, depth] or its transpose.
struct Operands {
  std::vector<float> left = gaussians(kRows * kDepth, 1), right = gaussians(kColumns * kDepth, 2), bias = gaussians(kColumns, 3);

  FloatProduct product(bool is_left_transposed, bool is_right_transposed, float* output) const {
    return {.rows = kRows,
            .columns = kColumns,
            .depth = kDepth,
            .left = left.data(),
            .left_stride = is_left_transposed ? kRows : kDepth,
            .is_left_transposed = is_left_transposed,
            .right = right.data(),
            .right_stride = is_right_transposed ? kDepth : kColumns,
            .is_right_transposed = is_right_transposed,
            .output = output,
            .output_stride = kColumns,
            .bias = bias.data()};
  }
  double wanted(bool is_left_transposed, bool is_right_transposed, int64_t r, int64_t c) const {
    double sum = bias[static_cast<size_t>(c)];
    for (int64_t k = 0; k < kDepth; ++k)
      sum += static_cast<double>(left[static_cast<size_t>(is_left_transposed ? k * kRows + r : r * kDepth + k)]) *
             static_cast<double>(right[static_cast<size_t>(is_right_transposed ? c * kDepth + k : k * kColumns + c)]);
    return sum;
  }
};

// |x||y| of a place is the depth, give or take.
TEST(FloatProducts, InFloatAreNearThoseOfDoublesOnEveryInstructionSet) {
  const Operands on;
  ThreadPool threads(2);
  for (const Isa isa : supported_isas())
    for (const bool is_left_transposed : {false, true})
      for (const bool is_right_transposed : {false, true}) {
        FloatProducts products(threads, isa);
        std::vector<float> output(kRows * kColumns);
        products.run(on.product(is_left_transposed, is_right_transposed, output.data()), ProductPrecision::kFloat);
        double squares = 0, worst = 0;
        int64_t count = 0;
        for (int64_t r = 0; r < kRows; r += 7)
          for (int64_t c = 0; c < kColumns; c += 3, ++count) {
            const double off = static_cast<double>(output[static_cast<size_t>(r * kColumns + c)]) -
                               on.wanted(is_left_transposed, is_right_transposed, r, c);
            squares += off * off, worst = std::max(worst, std::fabs(off));
          }
        EXPECT_LT(std::sqrt(squares / static_cast<double>(count)) / kDepth, 3e-7) << isa_name(isa);
        EXPECT_LT(worst / kDepth, 2e-6) << isa_name(isa);
      }
}

TEST(FloatProducts, HaveTheSameBitsOnAnyNumberOfThreads) {
  const Operands on;
  std::vector<std::pair<const cpu::Bf16Kernel*, ProductPrecision>> ways{{&cpu::generic_bf16_kernel(), ProductPrecision::kTraining},
                                                                        {nullptr, ProductPrecision::kFloat}};  // BLAS
  if (best_isa() == Isa::kAmx)
    for (const auto precision : {ProductPrecision::kFloat, ProductPrecision::kTraining})
      ways.emplace_back(cpu::bf16_kernel(Isa::kAmx), precision);
  for (const auto& [kernel, precision] : ways) {
    std::vector<std::vector<float>> outputs;
    for (const int count : {1, 2, 3, 7}) {
      ThreadPool threads(count);
      FloatProducts products(threads, kernel);
      outputs.emplace_back(kRows * kColumns);
      products.run(on.product(false, true, outputs.back().data()), precision);
    }
    for (const std::vector<float>& each : outputs) EXPECT_TRUE(each == outputs[0]);
  }
}

}  // namespace
}  // namespace tq
