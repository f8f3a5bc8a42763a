#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "codec/grid/taps.h"
#include "codec/grid_matrix.h"

namespace tq::grid {
namespace {

struct Column {
  std::vector<uint8_t> bits;
  std::vector<float> value;
};

Column encode(ColumnEncoder& encoder, const Layout& layout, const std::vector<float>& target, const std::vector<float>& weight) {
  Column column{std::vector<uint8_t>(static_cast<size_t>(layout.plane_rows)), std::vector<float>(target.size())};
  encoder.encode(target.data(), weight.data(), column.bits.data(), column.value.data());
  return column;
}

double cost(const std::vector<float>& target, const std::vector<float>& weight, const std::vector<float>& value) {
  double sum = 0.0;
  for (size_t r = 0; r < target.size(); ++r) {
    const double e = static_cast<double>(target[r]) - static_cast<double>(value[r]);
    sum += static_cast<double>(std::max(weight[r], 0.0f)) * e * e;
  }
  return sum;
}

std::vector<float> random_weights(int64_t rows, Rng& rng) {
  std::vector<float> weight(static_cast<size_t>(rows));
  for (float& w : weight) w = static_cast<float>(std::exp(rng.gaussian())) * 1e-3f;
  return weight;
}

TapsByRate taps_of(std::initializer_list<std::pair<int, int>> rate_and_window, uint64_t seed) {
  Rng rng(seed);
  TapsByRate taps;
  for (const auto& [rate, window] : rate_and_window) taps[static_cast<size_t>(rate)] = random_taps(window, rng);
  return taps;
}

// Four rows of two bits under a window of five: 256 strings. Given its last S = 3 bits the string must be the best; over all strings the
// choice of the seam may cost a little.
TEST(GridEncoder, TinyRingIsOptimalGivenItsSeamAndCloseToTheBest) {
  const std::vector<uint8_t> rates{2};
  const Layout layout(4, 1, rates);
  Rng rng(21);
  double total = 0.0, best_total = 0.0;
  for (int trial = 0; trial < 200; ++trial) {
    const TapsByRate taps = taps_of({{2, 5}}, static_cast<uint64_t>(trial));
    ColumnEncoder encoder(layout, taps);
    const std::vector<float> target = gaussians(4, rng), weight = random_weights(4, rng);
    const Column found = encode(encoder, layout, target, weight);
    double best = 1e30, best_with_seam = 1e30;
    for (uint32_t string = 0; string < 256; ++string) {
      std::vector<uint8_t> bits(8);
      for (size_t i = 0; i < 8; ++i) bits[i] = string >> i & 1;
      std::vector<float> value(4);
      ring_values(layout, taps, bits.data(), value.data());
      const double here = cost(target, weight, value);
      best = std::min(best, here);
      if (std::equal(bits.begin() + 5, bits.end(), found.bits.begin() + 5)) best_with_seam = std::min(best_with_seam, here);
    }
    const double here = cost(target, weight, found.value);
    ASSERT_NEAR(here, best_with_seam, 1e-6 * best_with_seam + 1e-9);
    total += here, best_total += best;
  }
  EXPECT_LT(total, 1.05 * best_total);
}

TEST(GridEncoder, RingShorterThanAStateIsSearchedInFull) {
  const TapsByRate taps = taps_of({{3, 12}}, 5);
  for (const int64_t rows : {1, 2}) {
    const std::vector<uint8_t> rates{3};
    const Layout layout(rows, 1, rates);
    ColumnEncoder encoder(layout, taps);
    Rng rng(22);
    for (int trial = 0; trial < 50; ++trial) {
      const std::vector<float> target = gaussians(rows, rng), weight = random_weights(rows, rng);
      const Column found = encode(encoder, layout, target, weight);
      double best = 1e30;
      std::vector<float> value(target.size());
      for (uint32_t string = 0; string < 1u << layout.plane_rows; ++string) {
        std::vector<uint8_t> bits(static_cast<size_t>(layout.plane_rows));
        for (size_t i = 0; i < bits.size(); ++i) bits[i] = string >> i & 1;
        ring_values(layout, taps, bits.data(), value.data());
        best = std::min(best, cost(target, weight, value));
      }
      ASSERT_DOUBLE_EQ(cost(target, weight, found.value), best);
    }
  }
}

// The plain way: states of `memory` bits for all rows, double, from and to the state that the encoder's ring has at the seam.
double best_cost_through(const Layout& layout, const TapsByRate& taps, const std::vector<float>& target, const std::vector<float>& weight,
                         int memory, uint32_t seam) {
  const uint32_t mask = (1u << memory) - 1;
  std::vector<double> metric(size_t{mask} + 1, 1e30), next(metric.size());
  metric[seam] = 0.0;
  for (size_t r = 0; r < target.size(); ++r) {
    const Taps& table = taps[layout.rate[r]];
    std::fill(next.begin(), next.end(), 1e30);
    for (uint32_t state = 0; state <= mask; ++state)
      for (uint32_t fresh = 0; fresh < 1u << layout.rate[r]; ++fresh) {
        if (weight[r] < 0.0f && fresh != 0) continue;
        const uint32_t window = state << layout.rate[r] | fresh;
        double value = 0.0;
        for (size_t j = 0; j < table.size(); ++j) value += static_cast<double>(table[j]) * (window >> j & 1 ? 1.0 : -1.0);
        const double e = value - static_cast<double>(target[r]);
        double& best = next[window & mask];
        best = std::min(best, metric[state] + static_cast<double>(std::max(weight[r], 0.0f)) * e * e);
      }
    metric.swap(next);
  }
  return metric[seam];
}

struct MixedCase {
  int64_t rows;
  std::vector<uint8_t> rates;
  TapsByRate taps;
  int memory;  // the longest history that any row needs
};

class GridEncoderMixed : public ::testing::TestWithParam<int> {
 protected:
  static MixedCase make(int index) {
    switch (index) {
      case 0: return {100, {2, 3, 4, 2}, taps_of({{2, 7}, {3, 7}, {4, 8}}, 1), 5};
      case 1: return {70, {5, 1, 8}, taps_of({{5, 6}, {1, 7}, {8, 9}}, 2), 6};
      case 2: return {64, {4, 4}, taps_of({{4, 4}}, 3), 1};  // a uniform grid: one state
      case 3: return {33, {3, 6}, taps_of({{3, 8}, {6, 8}}, 4), 5};
      default: return {40, {8, 2}, taps_of({{8, 8}, {2, 8}}, 5), 6};
    }
  }
};

TEST_P(GridEncoderMixed, RatesAndWindowsAreSearchedExactly) {
  const MixedCase c = make(GetParam());
  const Layout layout(c.rows, 1, c.rates);
  ColumnEncoder encoder(layout, c.taps);
  Rng rng(23);
  for (int trial = 0; trial < 3; ++trial) {
    const std::vector<float> target = gaussians(c.rows, rng);
    std::vector<float> weight = random_weights(c.rows, rng);
    weight[5] = weight[6] = -1.0f;
    weight[20] = 0.0f;
    const Column found = encode(encoder, layout, target, weight);
    uint32_t seam = 0;
    for (int i = 0; i < c.memory; ++i) seam |= uint32_t{found.bits[found.bits.size() - 1 - static_cast<size_t>(i)]} << i;
    const double best = best_cost_through(layout, c.taps, target, weight, c.memory, seam);
    EXPECT_NEAR(cost(target, weight, found.value), best, 1e-5 * best);
  }
}
INSTANTIATE_TEST_SUITE_P(Cases, GridEncoderMixed, ::testing::Range(0, 5));

TEST(GridEncoder, RowsOfScaleZeroGetZeroBits) {
  const std::vector<uint8_t> rates{3, 3, 2, 2};
  const Layout layout(128, 1, rates);
  const TapsByRate taps = taps_of({{3, 9}, {2, 8}}, 7);
  ColumnEncoder encoder(layout, taps);
  Rng rng(24);
  const std::vector<float> target = gaussians(128, rng);
  std::vector<float> weight(128, 1.0f);
  for (const size_t r : {0u, 1u, 2u, 3u, 4u, 31u, 63u, 64u, 100u, 126u, 127u}) weight[r] = -1.0f;
  const Column found = encode(encoder, layout, target, weight);
  for (size_t r = 0; r < 128; ++r)
    for (int i = 0; i < layout.rate[r] && weight[r] < 0.0f; ++i)
      EXPECT_EQ(found.bits[static_cast<size_t>(layout.newest[r] - i)], 0) << "row " << r;
  const Column none = encode(encoder, layout, target, std::vector<float>(128, -1.0f));
  EXPECT_EQ(std::count(none.bits.begin(), none.bits.end(), 1), 0);
}

TEST(GridEncoder, AnyTargetAndWeightGivesAString) {
  const std::vector<uint8_t> rates{3, 3};
  const Layout layout(40, 1, rates);
  ColumnEncoder encoder(layout, taps_of({{3, 9}}, 8));
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> odd{0.0f, 1e38f, -1e38f, inf, -inf, nan, 1e-40f};
  for (const float t : odd)
    for (const float w : odd) {
      const Column found = encode(encoder, layout, std::vector<float>(40, t), std::vector<float>(40, w));
      std::vector<float> value(40);
      ring_values(layout, taps_of({{3, 9}}, 8), found.bits.data(), value.data());
      EXPECT_EQ(found.value, value);
    }
}

struct Trellises {
  int rate, window;
};

class GridEncoderIsas : public ::testing::TestWithParam<Trellises> {};

TEST_P(GridEncoderIsas, AgreeBitForBit) {
  const auto [rate, window] = GetParam();
  const std::vector<uint8_t> rates(3, static_cast<uint8_t>(rate));
  const Layout layout(90, 1, rates);
  const TapsByRate taps = taps_of({{rate, window}}, static_cast<uint64_t>(window));
  Rng rng(25);
  const std::vector<float> target = gaussians(90, rng), weight = random_weights(90, rng);
  ColumnEncoder reference(layout, taps, Isa::kGeneric);
  const Column expected = encode(reference, layout, target, weight);
  for (const Isa isa : supported_isas()) {
    ColumnEncoder encoder(layout, taps, isa);
    const Column found = encode(encoder, layout, target, weight);
    EXPECT_EQ(found.bits, expected.bits) << isa_name(isa);
    EXPECT_EQ(found.value, expected.value) << isa_name(isa);
  }
}
INSTANTIATE_TEST_SUITE_P(Trellises, GridEncoderIsas,
                         ::testing::Values(Trellises{1, 4}, Trellises{1, 8}, Trellises{2, 4}, Trellises{2, 5}, Trellises{2, 6},
                                           Trellises{2, 10}, Trellises{3, 5}, Trellises{3, 6}, Trellises{3, 9}, Trellises{3, 12},
                                           Trellises{4, 4}, Trellises{4, 5}, Trellises{4, 6}, Trellises{4, 7}, Trellises{4, 8},
                                           Trellises{4, 12}, Trellises{5, 5}, Trellises{5, 6}, Trellises{5, 8}, Trellises{5, 9},
                                           Trellises{5, 12}, Trellises{6, 6}, Trellises{6, 8}, Trellises{6, 10}, Trellises{6, 12},
                                           Trellises{7, 9}, Trellises{7, 10}, Trellises{7, 12}, Trellises{8, 8}, Trellises{8, 9},
                                           Trellises{8, 10}, Trellises{8, 12}, Trellises{8, 13}));

TEST(GridEncoder, DoesNotDependOnWhatTheObjectEncodedBefore) {
  const std::vector<uint8_t> rates(40, 3);
  const Layout layout(1280, 1, rates);
  TapsByRate taps;
  taps[3] = default_taps(3, 9);
  ColumnEncoder used(layout, taps);
  Rng rng(26);
  for (int i = 0; i < 6; ++i) {
    const std::vector<float> target = gaussians(1280, rng), weight = random_weights(1280, rng);
    ColumnEncoder fresh(layout, taps);
    EXPECT_EQ(encode(used, layout, target, weight).bits, encode(fresh, layout, target, weight).bits);
  }
}

TEST(GridEncoder, DecodedMatrixIsExactlyTheValues) {
  const TapsByRate taps = taps_of({{2, 10}, {3, 9}, {4, 4}}, 9);
  const StoredMatrix frame({80, 9}, {{3, 2, 4}}, taps, 1);
  Matrix matrix = open(frame.tensor);
  std::vector<uint8_t> packed(matrix.layout.bytes(), 0);
  const std::vector<uint16_t> ones(80, float_to_f16(1.0f));
  matrix.bits = packed.data();
  matrix.row_scale = ones.data();
  ColumnEncoder encoder(matrix.layout, taps);
  Rng rng(27);
  std::vector<std::vector<float>> value;
  for (int64_t k = 0; k < 9; ++k) {
    const Column found = encode(encoder, matrix.layout, gaussians(80, rng), random_weights(80, rng));
    store_column(matrix.layout, k, found.bits.data(), packed.data());
    value.push_back(found.value);
  }
  std::vector<float> decoded(80 * 9);
  decode_rotated(matrix, 0, 80, decoded.data());
  for (size_t r = 0; r < 80; ++r)
    for (size_t k = 0; k < 9; ++k) ASSERT_EQ(decoded[r * 9 + k], value[k][r]);
}

struct Quality {
  int rate, window;
  int64_t rows;
  double least;  // dB: the design's figures less two or three standard errors of 50 000 samples (0.03 dB)
};

class GridEncoderQuality : public ::testing::TestWithParam<Quality> {};

TEST_P(GridEncoderQuality, ReachesTheDesignsFigureOnRings) {
  const auto [rate, window, rows, least] = GetParam();
  const std::vector<uint8_t> rates(static_cast<size_t>((rows + 31) / 32), static_cast<uint8_t>(rate));
  const Layout layout(rows, 1, rates);
  TapsByRate taps;
  taps[static_cast<size_t>(rate)] = default_taps(rate, window);
  ColumnEncoder encoder(layout, taps);
  Rng rng(28);
  const std::vector<float> ones(static_cast<size_t>(rows), 1.0f);
  double energy = 0.0, error = 0.0;
  for (int64_t samples = 0; samples < 50000; samples += rows) {
    const std::vector<float> target = gaussians(rows, rng);
    const Column found = encode(encoder, layout, target, ones);
    energy += cost(target, ones, std::vector<float>(target.size(), 0.0f));
    error += cost(target, ones, found.value);
  }
  EXPECT_GT(10.0 * std::log10(energy / error), least);
}
INSTANTIATE_TEST_SUITE_P(Rings, GridEncoderQuality,
                         ::testing::Values(Quality{2, 12, 256, 11.05}, Quality{2, 12, 1024, 11.12}, Quality{3, 9, 128, 16.55},
                                           Quality{3, 9, 256, 16.65}, Quality{3, 12, 128, 16.95}, Quality{3, 12, 256, 17.0},
                                           Quality{3, 12, 1024, 17.08}, Quality{4, 12, 256, 22.8}, Quality{4, 12, 1024, 22.88}));

TEST(GridTaps, EveryRateFromTwoOnHasTables) {
  for (int rate = 2; rate <= kMaxRate; ++rate) {
    const std::vector<int> found = windows(rate);
    ASSERT_FALSE(found.empty());
    EXPECT_TRUE(std::is_sorted(found.begin(), found.end()));
    for (const int window : found) EXPECT_EQ(default_taps(rate, window).size(), static_cast<size_t>(window));
  }
  EXPECT_TRUE(default_taps(3, 23).empty());
  EXPECT_TRUE(default_taps(9, 12).empty());
}

}  // namespace
}  // namespace tq::grid
