#include "codec/mixed/mixed.h"

#include <gtest/gtest.h>

#include "codec/grid_matrix.h"

namespace tq::grid {
namespace {

TapsByRate some_taps() {
  Rng rng(3);
  TapsByRate taps;
  taps[2] = random_taps(9, rng), taps[3] = random_taps(12, rng), taps[5] = random_taps(7, rng);
  return taps;
}

// 2 experts of 70 rows: ranges of 32, 32 and 6.
TEST(MixedCodec, EveryRangeIsThatOfItsSource) {
  const StoredMatrix low({2, 70, 24}, {{2, 2, 2}, {2, 2, 2}}, some_taps(), 1), middle({2, 70, 24}, {{3, 3, 3}, {3, 3, 3}}, some_taps(), 2),
      high({2, 70, 24}, {{5, 5, 5}, {5, 5, 5}}, some_taps(), 3);
  const PackedTensor* sources[] = {&low.tensor, &middle.tensor, &high.tensor};
  const std::vector<uint8_t> chosen = {1, 0, 2, 2, 2, 0};
  const PackedTensor mixed = mixed_tensor(sources, chosen);
  ASSERT_TRUE(codec_of(CodecId::kMixed).validate(mixed, "w").has_value());
  const Buffer<float> all = decode(mixed), decoded[] = {decode(low.tensor), decode(middle.tensor), decode(high.tensor)};
  for (int64_t row = 0; row < 140; ++row) {
    const auto range = static_cast<size_t>(row / 70 * 3 + row % 70 / 32);
    for (int64_t k = row * 24; k < (row + 1) * 24; ++k)
      ASSERT_EQ(all[static_cast<size_t>(k)], decoded[chosen[range]][static_cast<size_t>(k)]) << row;
  }
  std::vector<float> some(100 * 24);
  decode_rows(mixed, 20, 100, some.data());  // across experts, from the middle of a range
  EXPECT_TRUE(std::equal(some.begin(), some.end(), all.data() + 20 * 24));
}

TEST(MixedCodec, AWrongNumberOfRangesIsRefused) {
  const StoredMatrix low({40, 8}, {{2, 2}}, some_taps(), 1);
  const PackedTensor* sources[] = {&low.tensor};
  EXPECT_FALSE(codec_of(CodecId::kMixed).validate(mixed_tensor(sources, {0}), "w").has_value());
  EXPECT_TRUE(codec_of(CodecId::kMixed).validate(mixed_tensor(sources, {0, 0}), "w").has_value());
}

}  // namespace
}  // namespace tq::grid
