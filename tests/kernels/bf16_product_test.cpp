#include "kernels/bf16_product.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "base/rng.h"

namespace tq::cpu {
namespace {

std::vector<float> gaussians(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& each : out) each = static_cast<float>(rng.gaussian());
  return out;
}

float rounded(float value) {
  auto bits = std::bit_cast<uint32_t>(value);
  bits += 0x7fff + (bits >> 16 & 1);
  return std::bit_cast<float>(bits & 0xffff0000u);
}

struct Shape {
  int64_t rows, columns, depth;
  bool is_left_transposed, is_right_transposed;  // stored with the depth in rows
};
constexpr Shape kShapes[] = {{1, 1, 1, false, false},  {12, 32, 64, false, true},    {13, 33, 65, true, true},
                             {25, 70, 7, true, false}, {40, 31, 1031, false, false}, {7, 64, 513, false, true}};

struct Product {
  explicit Product(const Shape& of)
      : shape(of),
        left(gaussians(of.rows * of.depth, 1)),
        right(gaussians(of.columns * of.depth, 2)),
        output(gaussians(of.rows * stride(), 3)) {}
  int64_t stride() const { return shape.columns + 3; }
  static size_t at(int64_t i, int64_t k, int64_t count, int64_t depth, bool is_transposed) {
    return static_cast<size_t>(is_transposed ? k * count + i : i * depth + k);
  }
  static Bf16Operand operand(const std::vector<float>& values, int64_t count, int64_t depth, bool is_transposed) {
    return is_transposed ? Bf16Operand{values.data(), 1, count} : Bf16Operand{values.data(), depth, 1};
  }
  void run(Bf16Kernel kernel, bool accumulate) {
    Bf16Workspace workspace;
    bf16_product({.left = operand(left, shape.rows, shape.depth, shape.is_left_transposed),
                  .right = operand(right, shape.columns, shape.depth, shape.is_right_transposed),
                  .output = output.data(),
                  .output_stride = stride(),
                  .rows = shape.rows,
                  .columns = shape.columns,
                  .depth = shape.depth,
                  .accumulate = accumulate},
                 kernel, workspace);
  }
  double wanted(int64_t r, int64_t c) const {
    double sum = 0;
    for (int64_t k = 0; k < shape.depth; ++k)
      sum += static_cast<double>(rounded(left[at(r, k, shape.rows, shape.depth, shape.is_left_transposed)])) *
             static_cast<double>(rounded(right[at(c, k, shape.columns, shape.depth, shape.is_right_transposed)]));
    return sum;
  }

  Shape shape;
  std::vector<float> left, right, output;
};

void expect_products(Bf16Kernel kernel) {
  for (const Shape& shape : kShapes)
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.columns << " x " << shape.depth << (accumulate ? ", added" : ""));
      Product product(shape);
      const std::vector<float> before = product.output;
      product.run(kernel, accumulate);
      for (int64_t r = 0; r < shape.rows; ++r)
        for (int64_t c = 0; c < product.stride(); ++c) {
          const auto place = static_cast<size_t>(r * product.stride() + c);
          const double old = static_cast<double>(before[place]);
          const double wanted = c >= shape.columns ? old : product.wanted(r, c) + (accumulate ? old : 0.0);
          ASSERT_NEAR(product.output[place], wanted, 1e-5 * std::sqrt(static_cast<double>(shape.depth)) + 1e-6) << r << " " << c;
        }
    }
}

TEST(Bf16Product, IsThatOfRoundedOperandsOfAnyLayout) { expect_products(bf16_kernel_generic); }

TEST(Bf16Product, TheProcessorsKernelDoesTheSame) {
  const Bf16Kernel kernel = bf16_kernel(best_isa());
  if (!kernel) GTEST_SKIP() << "no BF16 products here";
  expect_products(kernel);
}

TEST(Bf16Product, OtherInstructionSetsHaveNone) {
  for (const Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) EXPECT_EQ(bf16_kernel(isa), nullptr);
}

}  // namespace
}  // namespace tq::cpu
