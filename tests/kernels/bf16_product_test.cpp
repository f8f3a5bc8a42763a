#include "kernels/bf16_product.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <thread>
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
};
// One of everything; whole blocks; edges of blocks, of steps and of parts of the depth; ranges of rows and columns that are packed one by
// one.
constexpr Shape kShapes[] = {{1, 1, 1},    {12, 32, 64},  {32, 32, 32},  {13, 33, 65},   {25, 70, 7},   {40, 31, 1031},
                             {7, 64, 513}, {64, 96, 512}, {33, 17, 544}, {3, 1500, 800}, {1500, 5, 800}};

struct Layout {
  bool is_left_transposed, is_right_transposed;  // stored with the depth in rows
};
constexpr Layout kLayouts[] = {{false, false}, {false, true}, {true, false}, {true, true}};

struct Product {
  Product(const Shape& of, const Layout& as)
      : shape(of),
        layout(as),
        left(gaussians(of.rows * of.depth, 1)),
        right(gaussians(of.columns * of.depth, 2)),
        output(gaussians(of.rows * stride(), 3)) {}
  int64_t stride() const { return shape.columns + 3; }
  size_t at(int64_t r, int64_t c) const { return static_cast<size_t>(r * stride() + c); }
  static Bf16Operand operand(const std::vector<float>& values, int64_t count, int64_t depth, bool is_transposed) {
    return is_transposed ? Bf16Operand{values.data(), 1, count} : Bf16Operand{values.data(), depth, 1};
  }
  void run(const Bf16Kernel& kernel, bool accumulate, int terms = 1) {
    Bf16Workspace workspace;
    bf16_product({.left = operand(left, shape.rows, shape.depth, layout.is_left_transposed),
                  .right = operand(right, shape.columns, shape.depth, layout.is_right_transposed),
                  .output = output.data(),
                  .output_stride = stride(),
                  .rows = shape.rows,
                  .columns = shape.columns,
                  .depth = shape.depth,
                  .accumulate = accumulate,
                  .terms = terms},
                 kernel, workspace);
  }
  float left_at(int64_t r, int64_t k) const {
    return left[static_cast<size_t>(layout.is_left_transposed ? k * shape.rows + r : r * shape.depth + k)];
  }
  float right_at(int64_t c, int64_t k) const {
    return right[static_cast<size_t>(layout.is_right_transposed ? k * shape.columns + c : c * shape.depth + k)];
  }
  double wanted(int64_t r, int64_t c, bool is_rounded) const {
    double sum = 0;
    for (int64_t k = 0; k < shape.depth; ++k) {
      const float x = left_at(r, k), y = right_at(c, k);
      sum +=
          is_rounded ? static_cast<double>(rounded(x)) * static_cast<double>(rounded(y)) : static_cast<double>(x) * static_cast<double>(y);
    }
    return sum;
  }

  Shape shape;
  Layout layout;
  std::vector<float> left, right, output;
};

struct Named {
  std::string_view name;
  const Bf16Kernel* kernel;
};
std::vector<Named> kernels() {
  std::vector<Named> out{{"scalar", &generic_bf16_kernel()}};
  for (const Isa isa : supported_isas())
    if (bf16_kernel(isa)) out.push_back({isa_name(isa), bf16_kernel(isa)});
  return out;
}

// Every place of the output, and those beside it.
void expect_sums(const Product& product, const std::vector<double>& sums, const std::vector<float>& before, bool accumulate) {
  const double tolerance = 3e-6 * std::sqrt(static_cast<double>(product.shape.depth)) + 1e-6;
  for (int64_t r = 0; r < product.shape.rows; ++r)
    for (int64_t c = 0; c < product.stride(); ++c) {
      const float old = before[product.at(r, c)], found = product.output[product.at(r, c)];
      if (c >= product.shape.columns) ASSERT_EQ(found, old) << r << " " << c;
      else ASSERT_NEAR(found, sums[product.at(r, c)] + (accumulate ? static_cast<double>(old) : 0.0), tolerance) << r << " " << c;
    }
}

TEST(Bf16Product, IsThatOfRoundedOperandsOfAnyLayout) {
  for (const Shape& shape : kShapes)
    for (const Layout& layout : kLayouts) {
      const Product whole(shape, layout);
      std::vector<double> sums(whole.output.size());
      for (int64_t r = 0; r < shape.rows; ++r)
        for (int64_t c = 0; c < shape.columns; ++c) sums[whole.at(r, c)] = whole.wanted(r, c, true);
      for (const auto& [name, kernel] : kernels())
        for (const bool accumulate : {false, true}) {
          SCOPED_TRACE(testing::Message() << name << ": " << shape.rows << " x " << shape.columns << " x " << shape.depth
                                          << (layout.is_left_transposed ? ", left transposed" : "")
                                          << (layout.is_right_transposed ? ", right transposed" : "") << (accumulate ? ", added" : ""));
          Product product = whole;
          product.run(*kernel, accumulate);
          expect_sums(product, sums, whole.output, accumulate);
        }
    }
}

// What is left out is a part of every product x y of the depth, of either sign.
TEST(Bf16Product, MoreTermsComeNearerToTheFloats) {
  constexpr double kLeftOut[] = {2e-3, 8e-6, 2e-7};
  for (const auto& [name, kernel] : kernels())
    for (int terms = 1; terms <= kMostBf16Terms; ++terms) {
      double worst = 0;
      for (const Shape& shape : {Shape{33, 40, 700}, Shape{5, 31, 64}})
        for (const Layout& layout : kLayouts) {
          Product product(shape, layout);
          product.run(*kernel, false, terms);
          for (int64_t r = 0; r < shape.rows; ++r)
            for (int64_t c = 0; c < shape.columns; ++c)
              worst = std::max(worst, std::fabs(static_cast<double>(product.output[product.at(r, c)]) - product.wanted(r, c, false)) /
                                          static_cast<double>(shape.depth));
        }
      EXPECT_LT(worst, kLeftOut[terms - 1]) << name << ", " << terms << " terms";
      if (terms < kMostBf16Terms) EXPECT_GT(worst, kLeftOut[terms - 1] / 50) << name << ", " << terms << " terms";
    }
}

// So that a product may be cut among any number of threads.
TEST(Bf16Product, APartOfTheOutputHasTheSameBits) {
  for (const auto& [name, kernel] : kernels())
    for (const int terms : {1, 2}) {
      SCOPED_TRACE(testing::Message() << name << ", " << terms << " terms");
      Product whole({90, 110, 1100}, {false, true}), parts = whole;
      whole.run(*kernel, true, terms);
      const auto run_part = [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
        Bf16Workspace workspace;
        bf16_product({.left = {parts.left.data() + row * 1100, 1100, 1},
                      .right = {parts.right.data() + column, 1, 110},
                      .output = parts.output.data() + row * parts.stride() + column,
                      .output_stride = parts.stride(),
                      .rows = rows,
                      .columns = columns,
                      .depth = 1100,
                      .accumulate = true,
                      .terms = terms},
                     *kernel, workspace);
      };
      std::thread other([&] { run_part(0, 41, 0, 110), run_part(41, 49, 77, 33); });
      run_part(41, 49, 0, 77);
      other.join();
      EXPECT_EQ(parts.output, whole.output);
    }
}

TEST(Bf16Product, OfNoDepthIsZero) {
  for (const auto& [name, kernel] : kernels()) {
    Product product({3, 4, 0}, {false, false}), added = product;
    const std::vector<float> before = product.output;
    product.run(*kernel, false), added.run(*kernel, true);
    EXPECT_EQ(product.output[product.at(2, 3)], 0.0f) << name;
    EXPECT_EQ(added.output, before) << name;
  }
}

TEST(Bf16Product, OtherInstructionSetsHaveNone) {
  for (const Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) EXPECT_EQ(bf16_kernel(isa), nullptr);
}

}  // namespace
}  // namespace tq::cpu
