#include <gmock/gmock.h>

#include <limits>

#include "codec/grid_matrix.h"

namespace tq::grid {
namespace {

using ::testing::HasSubstr;

TapsByRate mixed_taps() {
  Rng rng(11);
  TapsByRate taps;
  taps[2] = random_taps(9, rng);
  taps[3] = random_taps(12, rng);
  taps[5] = random_taps(7, rng);
  taps[8] = random_taps(8, rng);
  return taps;
}

// W = W' unrotated, entry by entry: sign_k * sum_i Had(k, i) W'_i within the block.
double unrotated(const StoredMatrix& m, int64_t expert, int64_t row, int64_t column) {
  const int64_t block = hadamard_block(m.columns), first = column / block * block;
  double sum = 0.0;
  for (int64_t i = 0; i < block; ++i)
    sum += m.rotated(expert, row, first + i) * (__builtin_popcountll(static_cast<uint64_t>(i & (column - first))) % 2 ? -1.0 : 1.0);
  const double sign = m.sign[static_cast<size_t>(column / 8)] >> (column % 8) & 1 ? -1.0 : 1.0;
  return sign * sum / std::sqrt(static_cast<double>(block));
}

void expect_decodes_by_definition(const StoredMatrix& m) {
  ASSERT_TRUE(codec_of(CodecId::kGrid).validate(m.tensor, "w").has_value());
  const Buffer<float> decoded = decode(m.tensor);
  for (int64_t e = 0; e < m.experts; ++e)
    for (int64_t r = 0; r < m.rows; ++r)
      for (int64_t k = 0; k < m.columns; ++k)
        ASSERT_NEAR(static_cast<double>(decoded[static_cast<size_t>((e * m.rows + r) * m.columns + k)]), unrotated(m, e, r, k), 1e-5)
            << "expert " << e << " row " << r << " column " << k;
}

TEST(GridCodec, DecodesMixedRatesByTheDefinition) {
  expect_decodes_by_definition(StoredMatrix({150, 24}, {{3, 2, 8, 5, 2}}, mixed_taps(), 1));
}

TEST(GridCodec, DecodesAStackOfExpertsWithTheirOwnRates) {
  expect_decodes_by_definition(StoredMatrix({3, 40, 10}, {{3, 2}, {8, 8}, {2, 5}}, mixed_taps(), 2));
}

TEST(GridCodec, DecodesRingsShorterThanAWindow) {
  expect_decodes_by_definition(StoredMatrix({1, 7}, {{3}}, mixed_taps(), 3));
  expect_decodes_by_definition(StoredMatrix({2, 1}, {{2}}, mixed_taps(), 4));
}

TEST(GridCodec, DecodesARangeOfRowsAcrossExperts) {
  const StoredMatrix m({3, 33, 12}, {{3, 2}, {5, 2}, {2, 8}}, mixed_taps(), 5);
  const Buffer<float> all = decode(m.tensor);
  std::vector<float> some(50 * 12);
  decode_rows(m.tensor, 20, 50, some.data());
  EXPECT_TRUE(std::equal(some.begin(), some.end(), all.data() + 20 * 12));
}

TEST(GridCodec, PlaneRowsLieWhereTheFormatSays) {
  const std::vector<uint8_t> rates(9, 3);
  const Layout layout(260, 6, rates);
  EXPECT_EQ(layout.bytes(), 7u * 2u * 64u);  // 780 plane rows in 7 lines, 6 columns in 2
  std::vector<uint8_t> bits(static_cast<size_t>(layout.plane_rows), 0), packed(layout.bytes(), 0), again(bits.size());
  bits[300] = 1;  // 300 = 2 * 128 + 2 * 16 + 12
  store_column(layout, 5, bits.data(), packed.data());
  for (size_t i = 0; i < packed.size(); ++i) EXPECT_EQ(packed[i], i == (2 * 2 + 1) * 64 + 12 * 4 + 1 ? 1 << 2 : 0) << i;
  load_column(layout, 5, packed.data(), again.data());
  EXPECT_EQ(bits, again);
}

TEST(GridCodec, NamesOfTaps) {
  int rate = 0, window = 0;
  EXPECT_TRUE(parse_taps_name(taps_name(3, 12), rate, window));
  EXPECT_EQ(rate, 3);
  EXPECT_EQ(window, 12);
  for (const char* name : {"taps", "taps.", "taps.3", "taps.3.", "taps.0.4", "taps.9.12", "taps.3.25", "taps.3.12x", "taps.x.12",
                           "taps.-3.12", "taps.3.99999999999", "bits"})
    EXPECT_FALSE(parse_taps_name(name, rate, window)) << name;
}

class DamagedGrid : public ::testing::Test {
 protected:
  StoredMatrix m{{64, 20}, {{3, 2}}, mixed_taps(), 6};

  void expect_refused(const char* reason) {
    const Status status = codec_of(CodecId::kGrid).validate(m.tensor, "layer.weight");
    ASSERT_FALSE(status.has_value());
    EXPECT_EQ(status.error().code, ErrorCode::kBadInput);
    EXPECT_THAT(status.error().message, HasSubstr("layer.weight: "));
    EXPECT_THAT(status.error().message, HasSubstr(reason));
    EXPECT_EQ(status.error().message.find('\n'), std::string::npos);
  }
  void drop(std::string_view name) {
    std::erase_if(m.tensor.parts, [&](const PackedTensor::Part& part) { return part.name == name; });
  }
};

TEST_F(DamagedGrid, IsAcceptedWhenItIsNot) { EXPECT_TRUE(codec_of(CodecId::kGrid).validate(m.tensor, "w").has_value()); }

TEST_F(DamagedGrid, WithoutAPart) {
  for (const char* name : {"bits", "row_scale", "rates", "sign"}) {
    const auto kept = m.tensor.parts;
    drop(name);
    expect_refused(name);
    m.tensor.parts = kept;
  }
}

TEST_F(DamagedGrid, WithAPartOfAnotherType) {
  for (const char* name : {"bits", "row_scale", "rates", "sign", "taps.3.12"}) {
    const DType kept = std::exchange(m.part(name).view.dtype, DType::kI32);
    expect_refused(name);
    m.part(name).view.dtype = kept;
  }
}

TEST_F(DamagedGrid, WithAPartOfAnotherSize) {
  for (const char* name : {"bits", "row_scale", "rates", "sign", "taps.3.12"})
    for (const int64_t change : {-1, 1}) {
      m.part(name).view.shape[0] += change;
      expect_refused(name);
      m.part(name).view.shape[0] -= change;
    }
}

TEST_F(DamagedGrid, WithARateOutOfRange) {
  m.all_rates[1] = 9;
  expect_refused("9 bits a weight");
  m.all_rates[1] = 0;
  expect_refused("0 bits a weight");
}

TEST_F(DamagedGrid, WithARateThatHasNoTaps) {
  drop("taps.2.9");
  expect_refused("2 bits a weight");
}

TEST_F(DamagedGrid, WithTwoTapTablesForARate) {
  m.add("taps.3.9", DType::kF32, 9, m.taps[3].data());
  expect_refused("two tap tables");
}

TEST_F(DamagedGrid, WithAWindowShorterThanItsRate) {
  m.add("taps.4.3", DType::kF32, 3, m.taps[3].data());
  expect_refused("taps.4.3");
}

TEST_F(DamagedGrid, WithValuesThatAreNotFinite) {
  m.row_scale[63] = 0x7c00;
  expect_refused("scale of row 63");
  m.row_scale[63] = 0x3c00;
  Taps taps = m.taps[3];
  taps[4] = std::numeric_limits<float>::quiet_NaN();
  m.part("taps.3.12").view.data = reinterpret_cast<const std::byte*>(taps.data());
  expect_refused("not finite");
}

TEST_F(DamagedGrid, OfAnImpossibleShape) {
  for (const Shape& shape : {Shape{20}, Shape{}, Shape{0, 20}, Shape{64, -4}, Shape{1, 1, 64, 20}, Shape{int64_t{1} << 62, 4}}) {
    m.tensor.shape = shape;
    expect_refused("shape");
  }
  m.tensor.shape = {int64_t{1} << 31, int64_t{1} << 31, int64_t{1} << 31};
  expect_refused("rates");
}

}  // namespace
}  // namespace tq::grid
