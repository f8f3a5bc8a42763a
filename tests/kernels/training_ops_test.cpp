// Sums over gradients, losses and steps of training: the oracle against finite differences and plain definitions, the CPU's against the
// oracle, on any number of threads.
#include <gtest/gtest.h>

#include <functional>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/ref/training_ops.h"
#include "kernels/training_cases.h"

namespace tq {
namespace {

using Vector = std::vector<float>;

// d function / d at[i] by central differences, `at` changed for the while.
double difference(std::vector<double>& at, size_t i, const std::function<double()>& function) {
  const double kept = at[i], step = 1e-5;
  at[i] = kept + step;
  const double above = function();
  at[i] = kept - step;
  const double below = function();
  at[i] = kept;
  return (above - below) / (2 * step);
}

constexpr int64_t kTokens = 5, kRows = 7;

TEST(SquaredError, IsTheWeightedSumWithItsDerivative) {
  const Vector output = gaussian(kTokens * kRows, 1), target = gaussian(kTokens * kRows, 2), weight = {1, 0, 0.5f, 2, 3};
  Vector gradient(output.size());
  double loss = 1;
  ref::squared_error({output.data(), target.data(), weight.data(), gradient.data(), &loss, kTokens, kRows, 0.3f});
  std::vector<double> at(output.begin(), output.end());
  const auto error = [&] {
    double sum = 0;
    for (size_t i = 0; i < at.size(); ++i) sum += 0.3f * weight[i / kRows] * (at[i] - target[i]) * (at[i] - target[i]);
    return sum;
  };
  EXPECT_NEAR(loss, 1 + error(), 1e-6);
  for (size_t i = 0; i < at.size(); ++i) EXPECT_NEAR(gradient[i], difference(at, i, error), 1e-5);
}

TEST(SoftcapBackward, IsTheDerivativeByWhatWasCapped) {
  constexpr float kCap = 1.5f;
  const Vector input = gaussian(20, 1), g = gaussian(20, 2);
  Vector output, gradient = g;
  for (const float x : input) output.push_back(kCap * std::tanh(x / kCap));
  ref::softcap_backward({output.data(), gradient.data(), 20, kCap});
  std::vector<double> at(input.begin(), input.end());
  for (size_t i = 0; i < at.size(); ++i)
    EXPECT_NEAR(gradient[i], difference(at, i, [&] { return g[i] * kCap * std::tanh(at[i] / kCap); }), 1e-5);
}

// Of output = exp(log_scale) (W x) + bias.
TEST(RowScaleGradient, IsTheDerivativeByTheLogarithmOfARowsScale) {
  const Vector product = gaussian(kTokens * kRows, 1), bias = gaussian(kRows, 2), g = gaussian(kTokens * kRows, 3);
  Vector output = product, sum(kRows, 1.0f);
  for (size_t i = 0; i < output.size(); ++i) output[i] += bias[i % kRows];
  ref::row_scale_gradient({output.data(), bias.data(), g.data(), sum.data(), kTokens, kRows});
  std::vector<double> log_scale(kRows);
  for (size_t r = 0; r < kRows; ++r)
    EXPECT_NEAR(sum[r],
                1.0 + difference(log_scale, r,
                                 [&] {
                                   double loss = 0;
                                   for (size_t i = 0; i < g.size(); ++i)
                                     loss += g[i] * (std::exp(log_scale[i % kRows]) * product[i] + bias[i % kRows]);
                                   return loss;
                                 }),
                1e-5);
}

TEST(Sums, OfColumnsSquaresAndProductsAreTheirDefinitions) {
  const Vector g = gaussian(kTokens * kRows, 1);
  Vector column(kRows, 2.0f), token(kTokens), row(kRows, 3.0f);
  bool finite = false;
  ref::column_sum({g.data(), column.data(), kTokens, kRows});
  ref::squares({g.data(), token.data(), row.data(), &finite, kTokens, kRows});
  EXPECT_TRUE(finite);
  double all = 0, by_token = 0, by_row = 0;
  for (size_t r = 0; r < kRows; ++r) {
    double sum = 2;
    for (size_t t = 0; t < kTokens; ++t) sum += g[t * kRows + r];
    EXPECT_NEAR(column[r], sum, 1e-5);
    by_row += row[r] - 3.0;
  }
  for (const float each : token) by_token += each * static_cast<double>(kRows);
  for (const float each : g) all += static_cast<double>(each) * each;
  EXPECT_NEAR(by_token, all, 1e-4);
  EXPECT_NEAR(by_row, all, 1e-4);
  EXPECT_NEAR(ref::dot(g.data(), g.data(), kTokens * kRows), all, 1e-9);
}

// The first step goes by `rate` against the sign of the gradient; later ones follow the averages.
TEST(Adam, FollowsTheAveragesOfGradientAndSquare) {
  Vector value = {1, 2, 3}, first(3), second(3);
  const Vector start = value, g = {0.5f, -2.0f, 0.0f};
  Vector gradient = g;
  ref::adam({value.data(), gradient.data(), first.data(), second.data(), 3, 1, 0.1f, 0.9f, 0.95f, 1e-8f, 3.0f});
  EXPECT_NEAR(value[0], 0.9, 1e-6);
  EXPECT_NEAR(value[1], 2.1, 1e-6);
  EXPECT_EQ(value[2], 3.0f);
  EXPECT_EQ(gradient, Vector(3, 0.0f));
  gradient = {1.0f, 1.0f, 1.0f};
  ref::adam({value.data(), gradient.data(), first.data(), second.data(), 3, 2, 0.1f, 0.9f, 0.95f, 1e-8f, 1.0f});
  const double m = (0.9 * 0.1 * 1.5 + 0.1) / (1 - 0.81), v = (0.95 * 0.05 * 2.25 + 0.05) / (1 - 0.95 * 0.95);
  EXPECT_NEAR(value[0], 0.9 - 0.1 * m / std::sqrt(v), 1e-6);
}

TEST(TrainingOperations, OnTheCpuAreTheOraclesOnAnyNumberOfThreads) {
  ThreadPool threads(3), one(1);
  const auto ref = make_ref_backend(threads);
  for (const auto& [tokens, rows] : {std::pair<int64_t, int64_t>{1, 1}, {37, 130}, {300, 257}}) {
    const Vector expected = run_sums(*ref, tokens, rows);
    for (const Isa isa : supported_isas()) {
      const auto cpu = make_cpu_backend(threads, isa), alone = make_cpu_backend(one, isa);
      const Vector got = run_sums(*cpu, tokens, rows);
      EXPECT_LT(relative(got, expected), 1e-5) << tokens << " " << isa_name(isa);
      EXPECT_EQ(run_sums(*alone, tokens, rows), got) << tokens << " " << isa_name(isa);
    }
  }
}

TEST(LeastSquares, OnTheCpuAreTheOraclesOnAnyNumberOfThreads) {
  ThreadPool threads(3), one(1);
  const auto ref = make_ref_backend(threads), cpu = make_cpu_backend(threads, best_isa()), alone = make_cpu_backend(one, best_isa());
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {37, 130}, {300, 172}}) {
    const Vector got = run_least_squares(*cpu, rows, columns, 0.3);
    EXPECT_LT(relative(got, run_least_squares(*ref, rows, columns, 0.3)), 1e-5) << rows;
    EXPECT_EQ(run_least_squares(*alone, rows, columns, 0.3), got) << rows;
  }
}

TEST(Squares, TellWhereAGradientIsNoFiniteNumber) {
  ThreadPool threads(2);
  const auto ref = make_ref_backend(threads), cpu = make_cpu_backend(threads, best_isa());
  for (Backend* backend : {ref.get(), cpu.get()})
    for (const auto& [value, is_finite] : {std::pair{1e30f, true}, {NAN, false}, {-INFINITY, false}})
      EXPECT_EQ(is_found_finite(*backend, value), is_finite) << backend->name() << " " << value;
}

// What is written to the floats is what both products multiply with; a matrix prepared otherwise has none.
TEST(TrainableMatrices, AreFloatsThatMayBeChanged) {
  ThreadPool threads(2);
  const auto ref = make_ref_backend(threads), cpu = make_cpu_backend(threads, best_isa());
  for (const PackedTensor& tensor : {random_grid(64, 96, {3, 4}), random_blocks("Q4_K", 32, 256), plain(40, 24)})
    for (Backend* backend : {ref.get(), cpu.get()}) {
      Training& training = *backend->training();
      const auto stored = backend->prepare(tensor).value();
      EXPECT_EQ(training.weights(*stored), nullptr);
      const auto matrix = training.prepare_trainable(tensor).value();
      float* weights = training.weights(*matrix);
      ASSERT_NE(weights, nullptr);
      const int64_t rows = tensor.rows(), columns = tensor.columns();
      Vector expected(static_cast<size_t>(rows * columns));
      decode_rows(tensor, 0, rows, expected.data());
      EXPECT_LT(relative({weights, weights + rows * columns}, expected), 1e-6);
      const Vector replaced = gaussian(rows * columns, 21), input = gaussian(3 * columns, 22), g = gaussian(3 * rows, 23);
      std::copy(replaced.begin(), replaced.end(), weights);
      Vector output(static_cast<size_t>(3 * rows)), input_gradient(input.size()), back(input.size()), product(output.size());
      const LinearJob job{matrix.get(), nullptr, output.data()};
      backend->linear({.input = input.data(), .tokens = 3, .jobs = {&job, 1}, .precision = Precision::kFloat});
      training.linear({.matrix = matrix.get(), .gradient = g.data(), .input_gradient = input_gradient.data(), .tokens = 3});
      for (int64_t t = 0; t < 3; ++t)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t k = 0; k < columns; ++k) {
            const float weight = replaced[static_cast<size_t>(r * columns + k)];
            product[static_cast<size_t>(t * rows + r)] += weight * input[static_cast<size_t>(t * columns + k)];
            back[static_cast<size_t>(t * columns + k)] += weight * g[static_cast<size_t>(t * rows + r)];
          }
      EXPECT_LT(relative(output, product), 1e-5) << backend->name();
      EXPECT_LT(relative(input_gradient, back), 1e-5) << backend->name();
    }
}

TEST(TrainableMatrices, OfAStackAreOneExperts) {
  ThreadPool threads(2);
  const auto ref = make_ref_backend(threads), cpu = make_cpu_backend(threads, best_isa());
  Buffer<float> values(3 * 4 * 8);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const PackedTensor stack = plain_tensor({3, 4, 8}, std::move(values));
  for (Backend* backend : {ref.get(), cpu.get()}) {
    const auto matrix = backend->training()->prepare_trainable(stack, 2).value();
    EXPECT_EQ(matrix->rows(), 4);
    EXPECT_EQ(backend->training()->weights(*matrix)[0], 64.0f);
  }
}

}  // namespace
}  // namespace tq
