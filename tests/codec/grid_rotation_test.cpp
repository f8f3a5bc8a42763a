#include <gtest/gtest.h>

#include "codec/grid_matrix.h"

namespace tq::grid {
namespace {

TEST(GridRotation, BlockIsTheLargestPowerOfTwoThatDividesUpTo256) {
  EXPECT_EQ(hadamard_block(4096), 256);
  EXPECT_EQ(hadamard_block(256), 256);
  EXPECT_EQ(hadamard_block(896), 128);
  EXPECT_EQ(hadamard_block(576), 64);
  EXPECT_EQ(hadamard_block(12), 4);
  EXPECT_EQ(hadamard_block(7), 1);
  EXPECT_EQ(hadamard_block(1), 1);
}

class GridRotationOf : public ::testing::TestWithParam<int64_t> {};

TEST_P(GridRotationOf, IsTheSignedHadamardMatrix) {
  const int64_t columns = GetParam(), block = hadamard_block(columns);
  Rng rng(static_cast<uint64_t>(columns));
  const std::vector<float> x = gaussians(3 * columns, rng);
  std::vector<uint8_t> sign(static_cast<size_t>((columns + 7) / 8));
  for (uint8_t& byte : sign) byte = static_cast<uint8_t>(rng.bits());
  std::vector<float> rotated = x;
  rotate(rotated.data(), 3, columns, sign.data());
  for (int64_t row = 0; row < 3; ++row)
    for (int64_t k = 0; k < columns; ++k) {
      const int64_t first = k / block * block;
      double sum = 0.0;
      for (int64_t i = 0; i < block; ++i) {
        const int64_t from = first + i;
        const int flips =
            (sign[static_cast<size_t>(from / 8)] >> (from % 8) & 1) + __builtin_popcountll(static_cast<uint64_t>(i & (k - first)));
        sum += static_cast<double>(x[static_cast<size_t>(row * columns + from)]) * (flips % 2 ? -1.0 : 1.0);
      }
      ASSERT_NEAR(static_cast<double>(rotated[static_cast<size_t>(row * columns + k)]), sum / std::sqrt(static_cast<double>(block)), 2e-6);
    }
}

TEST_P(GridRotationOf, IsUndoneByItsInverse) {
  const int64_t columns = GetParam();
  Rng rng(static_cast<uint64_t>(columns) + 1);
  const std::vector<float> x = gaussians(2 * columns, rng);
  std::vector<uint8_t> sign(static_cast<size_t>((columns + 7) / 8), 0xa6);
  std::vector<float> there = x, back = x;
  rotate(there.data(), 2, columns, sign.data());
  unrotate(there.data(), 2, columns, sign.data());
  unrotate(back.data(), 2, columns, sign.data());
  rotate(back.data(), 2, columns, sign.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_NEAR(there[i], x[i], 2e-6f);
    ASSERT_NEAR(back[i], x[i], 2e-6f);
  }
}

// So W' x' = W x with W' = rotate(W), x' = rotate(x).
TEST_P(GridRotationOf, KeepsProducts) {
  const int64_t columns = GetParam();
  Rng rng(static_cast<uint64_t>(columns) + 2);
  std::vector<float> pair = gaussians(2 * columns, rng);
  const auto product = [&] {
    double sum = 0.0;
    for (int64_t k = 0; k < columns; ++k)
      sum += static_cast<double>(pair[static_cast<size_t>(k)]) * static_cast<double>(pair[static_cast<size_t>(columns + k)]);
    return sum;
  };
  const double before = product();
  std::vector<uint8_t> sign(static_cast<size_t>((columns + 7) / 8), 0x5b);
  rotate(pair.data(), 2, columns, sign.data());
  EXPECT_NEAR(product(), before, 1e-5 * static_cast<double>(columns));
}

INSTANTIATE_TEST_SUITE_P(Columns, GridRotationOf, ::testing::Values(1, 6, 7, 24, 256, 320, 768));

}  // namespace
}  // namespace tq::grid
