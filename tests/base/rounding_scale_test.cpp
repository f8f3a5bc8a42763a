#include "base/rounding_scale.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace tq {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

TEST(RoundingScale, TheLargestMagnitudeIsNaNWhereverOneIs) {
  EXPECT_EQ(largest_magnitude(std::vector<float>{1, -3, 2}.data(), 3), 3.0f);
  EXPECT_EQ(largest_magnitude(nullptr, 0), 0.0f);
  EXPECT_EQ(largest_magnitude(std::vector<float>{1, -kInfinity, 2}.data(), 3), kInfinity);
  for (size_t at = 0; at < 20; ++at) {
    std::vector<float> values(20, 2.0f);
    values[at] = at % 2 ? kNaN : -kNaN;
    EXPECT_TRUE(std::isnan(largest_magnitude(values.data(), 20))) << at;
  }
}

TEST(RoundingScale, ValuesTooSmallToInvertRoundToZero) {
  for (const float tiny : {0.0f, 1e-45f, 1e-40f, 3e-37f}) {
    const RoundingScale unit = rounding_scale(tiny, 127.0f);
    EXPECT_TRUE(unit.is_finite);
    EXPECT_LE(tiny * unit.inverse, 127.0f);
  }
}

}  // namespace
}  // namespace tq
