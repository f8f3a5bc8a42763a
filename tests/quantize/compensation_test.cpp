#include "quantize/compensation.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "kernels/backend.h"
#include "kernels/training.h"

namespace tq {
namespace {

constexpr int64_t kLength = 64, kRows = 5, kColumns = 12;
constexpr size_t kSequences = 12, kHeldOut = 4;

std::vector<float> gaussian(size_t count, uint64_t seed) {
  Rng random(seed);
  std::vector<float> out(count);
  for (float& each : out) each = static_cast<float>(random.gaussian());
  return out;
}

// Sequences of inputs x and of hidden states that lack M x and some noise.
struct Lost {
  ThreadPool threads{2};
  std::unique_ptr<Backend> backend = make_ref_backend(threads);
  std::vector<float> map = gaussian(kRows * kColumns, 1);
  std::vector<float> moment = std::vector<float>(kColumns * kColumns);
  std::optional<MisfitMeter> meter;

  void measure(float signal, float noise) {
    const MisfitPlace place{.block = 0, .tap = "tap", .is_output = true, .rows = kRows, .columns = kColumns};
    meter.emplace(*MisfitMeter::create(place, kLength, *backend));
    for (size_t s = 0; s < kSequences; ++s) {
      const std::vector<float> x = gaussian(kLength * kColumns, 10 + s), n = gaussian(kLength * kRows, 50 + s);
      const std::vector<float> hidden = gaussian(kLength * kRows, 90 + s);
      std::vector<float> original = hidden, weight(kLength);
      for (size_t t = 0; t < weight.size(); ++t) weight[t] = 0.5f + static_cast<float>(t % 3);
      const bool is_held_out = s < kHeldOut;
      for (size_t t = 0; t < weight.size(); ++t) {
        for (size_t r = 0; r < kRows; ++r) {
          float& value = original[t * kRows + r];
          value += noise * n[t * kRows + r];
          for (size_t c = 0; c < kColumns; ++c) value += signal * map[r * kColumns + c] * x[t * kColumns + c];
        }
        for (size_t i = 0; i < kColumns && !is_held_out; ++i)
          for (size_t j = 0; j <= i; ++j) moment[i * kColumns + j] += weight[t] * x[t * kColumns + i] * x[t * kColumns + j];
      }
      const MisfitMeter::Sequence sequence{hidden.data(), original.data(), weight.data(), weight, is_held_out};
      meter->see(x.data(), sequence);
      meter->finish(sequence);
    }
  }
  std::optional<Compensation> found(const float* metric = nullptr) {
    return std::move(*find_compensation({*meter, moment.data(), metric}, *backend));
  }
};

TEST(Compensation, TakesUpALinearLoss) {
  Lost lost;
  lost.measure(1, 0.1f);
  const auto found = lost.found();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->ridge, 0.1);  // the smallest that is tried: nearly everything is to be explained
  const float* change = found->change.as<float>();
  for (size_t i = 0; i < lost.map.size(); ++i) EXPECT_NEAR(change[i], lost.map[i] / 1.1, 0.12) << i;
}

TEST(Compensation, ChangesNothingWhereNothingIsToBeExplained) {
  Lost lost;
  lost.measure(0, 1);
  EXPECT_FALSE(lost.found().has_value());
}

TEST(Compensation, ShrinksMoreWhereMoreIsNoise) {
  Lost lost;
  lost.measure(0.05f, 1);
  const auto found = lost.found();
  ASSERT_TRUE(found.has_value());
  EXPECT_GT(found->ridge, 0.1);
}

// e is what the original's norm gives less x, and both sums are over the sequences of their kind.
TEST(Compensation, OfInputsIsMeasuredWhereTheyAreSeen) {
  ThreadPool threads(2);
  const auto backend = make_ref_backend(threads);
  auto meter = *MisfitMeter::create({.block = 0, .tap = "tap", .is_output = false, .rows = 2, .columns = 2}, 1, *backend);
  const std::vector<float> x{1, 2}, original{4, 1}, weight{3};
  for (const bool is_held_out : {false, true}) {
    const MisfitMeter::Sequence sequence{nullptr, original.data(), weight.data(), weight, is_held_out};
    meter.see(x.data(), sequence), meter.finish(sequence);
  }
  const std::vector<float> misfit{9, 18, -3, -6}, moment{3, 6, 6, 12};  // 3 (3, -1) x^T, 3 x x^T
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_FLOAT_EQ(meter.training().misfit.as<float>()[i], misfit[i]);
    EXPECT_FLOAT_EQ(meter.held_out().misfit.as<float>()[i], misfit[i]);
    EXPECT_NEAR(meter.held_out().moment.as<float>()[i], moment[i], 1e-5);
  }
  EXPECT_EQ(meter.held_out().weight, 3);
  EXPECT_EQ(meter.held_out().tokens, 1);
}

TEST(Compensation, AMetricThatSeesNoRowFindsNothingToGain) {
  Lost lost;
  lost.measure(1, 0.1f);
  std::vector<float> metric(kRows * kRows);
  EXPECT_FALSE(lost.found(metric.data()).has_value());
  for (size_t r = 0; r < kRows; ++r) metric[r * kRows + r] = 2;
  const double plain = lost.found()->gain;
  EXPECT_NEAR(lost.found(metric.data())->gain, 2 * plain, 1e-4 * plain);
}

TEST(Compensation, AMomentOfZerosIsLeftAlone) {
  Lost lost;
  lost.measure(1, 0.1f);
  std::fill(lost.moment.begin(), lost.moment.end(), 0.0f);
  EXPECT_FALSE(lost.found().has_value());
}

}  // namespace
}  // namespace tq
