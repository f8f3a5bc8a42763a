#include "quantize/objective.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "kernels/cuda/cuda_backend.h"

namespace tq {
namespace {

// A Gram matrix of twice as many vectors, with one direction a hundred times stronger.
Buffer<float> gram(int64_t n) {
  Rng rng(5);
  Buffer<float> out(static_cast<size_t>(n * n));
  std::vector<float> x(static_cast<size_t>(n));
  for (int64_t t = 0; t < 2 * n; ++t) {
    const double common = 10 * rng.gaussian();
    for (float& each : x) each = static_cast<float>(rng.gaussian() + common);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) out[static_cast<size_t>(i * n + j)] += x[static_cast<size_t>(i)] * x[static_cast<size_t>(j)];
  }
  return out;
}

// H = U U^T, so that H[i, j] = sum_k feedback[i, k] d_k feedback[j, k] with ones on the feedback's diagonal.
TEST(Objective, FeedbackAndDiagonalAreAFactorOfTheHessian) {
  constexpr int64_t kColumns = 50;
  const Objective objective = factored_objective(gram(kColumns), kColumns, 0.01, 1);
  const auto entry = [&](int64_t i, int64_t k) {
    return i == k ? 1.0 : i < k ? static_cast<double>(objective.feedback[static_cast<size_t>(i * kColumns + k)]) : 0.0;
  };
  for (int64_t i = 0; i < kColumns; ++i)
    for (int64_t j = 0; j < kColumns; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < kColumns; ++k) sum += entry(i, k) * objective.diagonal[static_cast<size_t>(k)] * entry(j, k);
      const double wanted = static_cast<double>(objective.hessian[static_cast<size_t>(i * kColumns + j)]);
      EXPECT_NEAR(sum, wanted, 1e-4 * std::fabs(wanted) + 1e-3) << i << " " << j;
    }
}

TEST(Objective, OneDirectionIsToldFromTwo) {
  constexpr int64_t kColumns = 64;
  for (const double damping : {0.01, 0.5}) {
    EXPECT_FALSE(is_rank_one(factored_objective(gram(kColumns), kColumns, damping, 1)));
    for (const bool has_second : {false, true}) {
      Buffer<float> hessian(static_cast<size_t>(kColumns * kColumns));
      for (int64_t i = 0; i < kColumns; ++i)
        for (int64_t j = 0; j < kColumns; ++j) {
          const auto x = [](int64_t k) { return 0.1 * static_cast<double>(k % 7) - 0.2; };
          const double second = i == j && i == 9 ? 0.01 : 0.0;  // a thirtieth of the mean
          hessian[static_cast<size_t>(i * kColumns + j)] = static_cast<float>(x(i) * x(j) + (has_second ? second : 0.0));
        }
      EXPECT_EQ(is_rank_one(factored_objective(std::move(hessian), kColumns, damping, 1)), !has_second) << damping;
    }
  }
  EXPECT_FALSE(is_rank_one(identity_objective(kColumns)));
}

TEST(Objective, InputsThatAreAlwaysZeroAreCounted) {
  Buffer<float> hessian = gram(50);
  EXPECT_EQ(dead_inputs(hessian, 50), 0);
  for (int64_t k = 0; k < 50; ++k) hessian[static_cast<size_t>(7 * 50 + k)] = hessian[static_cast<size_t>(k * 50 + 7)] = 0;
  EXPECT_EQ(dead_inputs(hessian, 50), 1);
}

TEST(Objective, FactorOfTheDeviceIsTheHosts) {
  ThreadPool threads(2);
  auto cuda = make_cuda_backend(threads);
  if (!cuda) GTEST_SKIP() << cuda.error().message;
  for (const int64_t columns : {3, 172, 300}) {
    const Objective host = factored_objective(gram(columns), columns, 0.01, 1);
    const Objective device = factored_objective(gram(columns), columns, 0.01, 1, (*cuda)->quantizer());
    ASSERT_EQ(device.feedback.size(), host.feedback.size());
    for (size_t i = 0; i < host.feedback.size(); ++i) EXPECT_NEAR(device.feedback[i], host.feedback[i], 1e-4) << i;
    for (size_t k = 0; k < host.diagonal.size(); ++k) EXPECT_NEAR(device.diagonal[k], host.diagonal[k], 1e-4 * host.diagonal[k]) << k;
  }
}

// A Hessian of rank one is raised until it factors.
TEST(Objective, DampingGrowsUntilTheDeviceFactors) {
  ThreadPool threads(2);
  auto cuda = make_cuda_backend(threads);
  if (!cuda) GTEST_SKIP() << cuda.error().message;
  constexpr int64_t kColumns = 64;
  Buffer<float> ones(static_cast<size_t>(kColumns * kColumns));
  std::fill(ones.data(), ones.data() + kColumns * kColumns, 1.0f);
  const Objective objective = factored_objective(std::move(ones), kColumns, 1e-9, 1, (*cuda)->quantizer());
  EXPECT_GT(objective.damping, 1e-9);
  for (const double each : objective.diagonal) EXPECT_GT(each, 0);
}

}  // namespace
}  // namespace tq
