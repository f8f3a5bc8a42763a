// The error that int8 inputs cause is measured as the kernels make it, and decides the precision that a tensor asks for.
#include "quantize/activation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "codec/grid/grid.h"
#include "quantize/plan.h"
#include "quantize/rotated_objective.h"
#include "quantize/round.h"
#include "quantize/statistics.h"

namespace tq {
namespace {

constexpr int64_t kTokens = 150, kColumns = 320;  // two groups of columns, Hadamard blocks of 64

std::vector<float> inputs() {
  std::vector<float> out(kTokens * kColumns);
  Rng rng(1);
  for (float& each : out) each = static_cast<float>(rng.gaussian());
  for (int64_t k = 0; k < kColumns; ++k) out[static_cast<size_t>(7 * kColumns + k)] = 0;
  return out;
}

std::vector<double> measured(const std::vector<float>& input, int threads) {
  ThreadPool pool(threads);
  ActivationError error(sign_of("tap", kColumns, 0), kColumns);
  error.add(input.data(), 100, pool);
  error.add(input.data() + 100 * kColumns, kTokens - 100, pool);
  return error.mean();
}

TEST(ActivationError, IsThatOfAScalePerTokenAnd256RotatedColumns) {
  std::vector<float> rotated = inputs();
  const std::vector<double> found = measured(rotated, 1);
  const std::vector<uint8_t> sign = sign_of("tap", kColumns, 0);
  grid::rotate(rotated.data(), kTokens, kColumns, sign.data());
  std::vector<double> expected(kColumns);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t begin = 0; begin < kColumns; begin += 256) {
      const int64_t end = std::min<int64_t>(kColumns, begin + 256);
      double largest = 0;
      for (int64_t k = begin; k < end; ++k)
        largest = std::max(largest, std::fabs(static_cast<double>(rotated[static_cast<size_t>(t * kColumns + k)])));
      for (int64_t k = begin; k < end && largest > 0; ++k) {
        const double x = rotated[static_cast<size_t>(t * kColumns + k)], unit = largest / 127;
        const double e = x - unit * std::nearbyint(x / unit);
        expected[static_cast<size_t>(k)] += e * e / kTokens;
      }
    }
  }
  for (size_t k = 0; k < kColumns; ++k) EXPECT_NEAR(found[k] / expected[k], 1.0, 1e-3) << k;
}

TEST(ActivationError, DoesNotDependOnTheNumberOfThreads) { EXPECT_EQ(measured(inputs(), 1), measured(inputs(), 2)); }

TEST(ActivationBits, AreFineWhereInt8CostsMoreThanATwentieth) {
  const std::vector<uint8_t> low = {3, 4}, mixed = {4, 5};
  EXPECT_EQ(activation_bits(low, 0.049, 1), 8);
  EXPECT_EQ(activation_bits(low, 0.051, 1), 15);
  EXPECT_EQ(activation_bits(low, 0, 0), 8);
  EXPECT_EQ(activation_bits(mixed, 0, 1), 15);
}

// A tensor whose input has one token that dwarfs the others: its rounding adapts to it, but int8 has too few steps for the rest.
TEST(ActivationBits, MassiveInputsAskForTheFinePrecision) {
  constexpr int64_t kRows = 64, kWidth = 64, kCount = 512;
  const std::vector<uint8_t> sign = sign_of("tap", kWidth, 0), rates = {4, 4};
  const grid::TapsByRate taps = taps_of(Effort::kFast);
  ThreadPool pool(1);
  Rng rng(3);
  std::vector<float> weight(kRows * kWidth), input(kCount * kWidth);
  for (float& each : weight) each = static_cast<float>(rng.gaussian());
  for (float& each : input) each = static_cast<float>(rng.gaussian());
  const auto precision = [&] {
    SecondMoment moment(kWidth);
    ActivationError activation(sign, kWidth);
    FloatProducts products(pool);
    moment.add(input.data(), kCount, products);
    activation.add(input.data(), kCount, pool);
    const Objective objective = rotated_objective(moment.take(), kWidth, sign.data(), 0.001);
    const std::vector<double> error = activation.mean();
    const Rounded rounded = round_to_grid(
        {.weight = [&](int64_t first, int64_t count, float* out) { std::copy_n(weight.data() + first * kWidth, count * kWidth, out); },
         .rows = kRows,
         .columns = kWidth,
         .sign = sign.data(),
         .objective = &objective,
         .activation_error = error,
         .rates = rates,
         .taps = &taps,
         .isa = Isa::kGeneric});
    EXPECT_LE(rounded.loss.measured_error, rounded.loss.error);
    return activation_bits(rates, rounded.loss.activation_error, rounded.loss.measured_error);
  };
  EXPECT_EQ(precision(), 8);
  input[5 * kWidth + 3] = 3000;
  EXPECT_EQ(precision(), 15);
}

}  // namespace
}  // namespace tq
