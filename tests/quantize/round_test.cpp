#include "quantize/round.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "base/float16.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "quantize/options.h"
#include "quantize/plan.h"
#include "quantize/rotated_objective.h"

namespace tq {
namespace {

const std::vector<std::byte>& bytes_of(const Rounded& rounded, std::string_view name) {
  return std::find_if(rounded.parts.begin(), rounded.parts.end(), [&](const RoundedPart& part) { return part.name == name; })->bytes;
}

constexpr int64_t kRows = 96, kColumns = 64;

Buffer<float> gaussian(int64_t count, uint64_t seed) {
  Buffer<float> out(static_cast<size_t>(count));
  Rng rng(seed);
  for (float& each : out) each = static_cast<float>(rng.gaussian());
  return out;
}

// The second moment of inputs with strong correlations.
Buffer<float> correlated_moment() {
  Buffer<float> hessian(static_cast<size_t>(kColumns * kColumns));
  for (int64_t i = 0; i < kColumns; ++i)
    for (int64_t j = 0; j < kColumns; ++j)
      hessian[static_cast<size_t>(i * kColumns + j)] = static_cast<float>(std::pow(0.9, std::abs(i - j)));
  return hessian;
}

struct Case {
  Buffer<float> weight = gaussian(kRows * kColumns, 1);
  std::vector<uint8_t> sign = sign_of("tap", kColumns, 0);
  Rates rates = Rates(3, 3);
  grid::TapsByRate taps = taps_of(Effort::kFast);

  Rounded round(const Objective& objective, int passes = 0) const {
    return round_to_grid({.weight = [this](int64_t first, int64_t count,
                                           float* out) { std::copy_n(weight.data() + first * kColumns, count * kColumns, out); },
                          .rows = kRows,
                          .columns = kColumns,
                          .sign = sign.data(),
                          .objective = &objective,
                          .rates = rates,
                          .taps = &taps,
                          .passes = passes,
                          .isa = Isa::kGeneric});
  }
  grid::Matrix open(const Rounded& rounded) const {
    return {grid::Layout(kRows, kColumns, rates), reinterpret_cast<const uint8_t*>(bytes_of(rounded, "bits").data()),
            reinterpret_cast<const uint16_t*>(bytes_of(rounded, "row_scale").data()), sign.data(), taps};
  }
  Objective objective() const { return rotated_objective(correlated_moment(), kColumns, sign.data(), 0.01); }
};

// tr(E H E^T) of the stored matrix, computed from its decoding.
double stored_error(const Case& one, const Rounded& rounded, const Objective& objective) {
  std::vector<float> rotated(one.weight.begin(), one.weight.end()), decoded(rotated.size());
  grid::rotate(rotated.data(), kRows, kColumns, one.sign.data());
  grid::decode_rotated(one.open(rounded), 0, kRows, decoded.data());
  double total = 0;
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t i = 0; i < kColumns; ++i)
      for (int64_t j = 0; j < kColumns; ++j) {
        const auto at = [&](int64_t k) { return static_cast<size_t>(r * kColumns + k); };
        const double h = objective.hessian.empty() ? (i == j) : objective.hessian[static_cast<size_t>(i * kColumns + j)];
        total += (rotated[at(i)] - decoded[at(i)]) * h * (rotated[at(j)] - decoded[at(j)]);
      }
  return total;
}

TEST(Round, ReportsTheErrorOfWhatItStores) {
  const Case one;
  const Objective objective = one.objective();
  const Rounded rounded = one.round(objective);
  EXPECT_NEAR(stored_error(one, rounded, objective) / rounded.loss.error, 1.0, 1e-3);
}

TEST(Round, AnotherPassOverTheColumnsLosesLess) {
  const Case one;
  const Objective objective = one.objective();
  double before = one.round(objective).loss.error;
  for (const int passes : {1, 2}) {
    const Rounded rounded = one.round(objective, passes);
    EXPECT_LT(rounded.loss.error, before) << passes;
    EXPECT_NEAR(stored_error(one, rounded, objective) / rounded.loss.error, 1.0, 1e-3) << passes;
    before = rounded.loss.error;
  }
}

TEST(Round, GaussianWeightsReachTheCodesSignalToNoiseRatio) {
  const Case one;
  const Rounded rounded = one.round(identity_objective(kColumns));
  EXPECT_GT(10 * std::log10(rounded.loss.energy / rounded.loss.error), 16.4);  // the code itself: 16.77 dB at 3 bits, L = 9
}

TEST(Round, FeedbackUnderTheHessianBeatsRoundingWithoutIt) {
  const Case one;
  const Objective objective = one.objective();
  const double with_feedback = one.round(objective).loss.error;
  const double without = stored_error(one, one.round(identity_objective(kColumns)), objective);
  EXPECT_LT(with_feedback, 0.7 * without);
}

TEST(Round, ARowOfZerosStaysZero) {
  Case one;
  std::fill_n(one.weight.data() + 5 * kColumns, kColumns, 0.0f);
  const Rounded rounded = one.round(one.objective());
  std::vector<float> row(kColumns);
  grid::decode_rotated(one.open(rounded), 5, 1, row.data());
  EXPECT_THAT(row, testing::Each(0.0f));
}

// Two threads at once, as the job does it.
TEST(Round, ThreadsSideBySideGiveTheSameBits) {
  const Case one;
  const Objective objective = one.objective();
  const Rounded alone = one.round(objective);
  ThreadPool threads(2);
  threads.run(64, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const Objective own = one.objective();
      EXPECT_TRUE(std::ranges::equal(own.feedback, objective.feedback));
      const Rounded again = one.round(own);
      EXPECT_TRUE(bytes_of(again, "bits") == bytes_of(alone, "bits"));
    }
  });
}

TEST(Objective, FeedbackFactorsTheDampedHessian) {
  const Case one;
  const Objective objective = one.objective();
  // H = (I + F) D (I + F)^T with D from H itself: rebuild it from the last column backwards.
  std::vector<double> diagonal(kColumns);
  const auto unit = [&](int64_t i, int64_t k) {
    return i == k ? 1.0 : i < k ? static_cast<double>(objective.feedback[static_cast<size_t>(i * kColumns + k)]) : 0.0;
  };
  const auto partial = [&](int64_t i, int64_t j, int64_t from) {
    double sum = 0;
    for (int64_t k = from; k < kColumns; ++k) sum += unit(i, k) * diagonal[static_cast<size_t>(k)] * unit(j, k);
    return sum;
  };
  for (int64_t k = kColumns - 1; k >= 0; --k)
    diagonal[static_cast<size_t>(k)] = objective.hessian[static_cast<size_t>(k * kColumns + k)] - partial(k, k, k + 1);
  for (int64_t i = 0; i < kColumns; ++i)
    for (int64_t j = 0; j < kColumns; ++j)
      EXPECT_NEAR(partial(i, j, 0), objective.hessian[static_cast<size_t>(i * kColumns + j)], 2e-5) << i << ", " << j;
}

TEST(Rates, MeanNeverExceedsWhatWasAskedForAndComesClose) {
  const Linear a{.name = "a", .in = 64, .out = 100}, b{.name = "b", .in = 172, .out = 333};
  const std::vector<const Linear*> linears = {&a, &b, &a, &b};
  for (const double bits : {2.0, 2.5, 3.25, 3.7, 8.0}) {
    const std::vector<Rates> rates = uniform_rates(linears, bits);
    double spent = 0, weights = 0;
    for (size_t i = 0; i < linears.size(); ++i) {
      for (size_t n = 0; n < rates[i].size(); ++n) {
        const auto rows = std::min<int64_t>(32, linears[i]->out - static_cast<int64_t>(n) * 32);
        weights += static_cast<double>(rows * linears[i]->in);
        spent += static_cast<double>(rates[i][n]) * static_cast<double>(rows * linears[i]->in);
      }
    }
    EXPECT_LE(spent / weights, bits * (1 + 1e-9)) << bits;
    EXPECT_GE(spent / weights, bits - 0.06) << bits;
  }
}

TEST(Taps, EveryRateHasATableAtEveryEffort) {
  for (const Effort effort : {Effort::kFast, Effort::kNormal, Effort::kBest})
    for (int rate = 1; rate <= 8; ++rate) EXPECT_GE(taps_of(effort)[static_cast<size_t>(rate)].size(), static_cast<size_t>(rate));
}

}  // namespace
}  // namespace tq
