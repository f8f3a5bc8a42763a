#include "quantize/float_backend.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "kernels/cpu/cpu_backend.h"

namespace tq {
namespace {

constexpr int64_t kTokens = 37, kRows = 70, kColumns = 45;

Buffer<float> gaussians(int64_t count, uint64_t seed) {
  Rng rng(seed);
  auto out = Buffer<float>::uninitialized(static_cast<size_t>(count));
  for (float& each : out) each = static_cast<float>(rng.gaussian());
  return out;
}

double relative_error(std::span<const float> found, std::span<const float> wanted) {
  double error = 0, all = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += std::pow(static_cast<double>(found[i]) - wanted[i], 2);
    all += std::pow(static_cast<double>(wanted[i]), 2);
  }
  return std::sqrt(error / all);
}

struct Products {
  std::vector<float> exact, forward, backward, weight;
};

Products products_by(const cpu::Bf16Kernel* bf16) {
  ThreadPool threads(2);
  const auto processor = make_cpu_backend(threads, best_isa());
  FloatBackend backend(*processor, threads, bf16);
  const Buffer<float> input = gaussians(kTokens * kColumns, 1), gradient = gaussians(kTokens * kRows, 2), bias = gaussians(kRows, 3);
  const auto matrix = backend.training()->prepare_trainable(plain_tensor({kRows, kColumns}, gaussians(kRows * kColumns, 4)), 0);
  EXPECT_TRUE(matrix.has_value());
  Products out;
  for (const auto& [to, precision] : {std::pair(&out.exact, Precision::kFloat), std::pair(&out.forward, Precision::kTraining)}) {
    to->resize(static_cast<size_t>(kTokens * kRows));
    const LinearJob job{matrix->get(), bias.data(), to->data()};
    backend.linear({.input = input.data(), .tokens = kTokens, .jobs = {&job, 1}, .precision = precision});
  }
  out.backward.resize(static_cast<size_t>(kTokens * kColumns));
  backend.training()->linear(
      {.matrix = matrix->get(), .gradient = gradient.data(), .input_gradient = out.backward.data(), .tokens = kTokens});
  out.weight.assign(static_cast<size_t>(kRows * kColumns), 1.0f);
  backend.training()->weight({.input = input.data(),
                              .gradient = gradient.data(),
                              .weight_gradient = out.weight.data(),
                              .tokens = kTokens,
                              .columns = kColumns,
                              .all_rows = kRows,
                              .rows = kRows});
  return out;
}

TEST(FloatBackend, ProductsOfTrainingMayBeInBfloat16AndNoOthers) {
  const Products exact = products_by(nullptr), rounded = products_by(&cpu::generic_bf16_kernel());
  EXPECT_EQ(rounded.exact, exact.exact);
  EXPECT_EQ(exact.forward, exact.exact);
  for (const auto part : {&Products::forward, &Products::backward, &Products::weight}) {
    EXPECT_LT(relative_error(rounded.*part, exact.*part), 4e-3);
    EXPECT_GT(relative_error(rounded.*part, exact.*part), 1e-4);
  }
}

}  // namespace
}  // namespace tq
