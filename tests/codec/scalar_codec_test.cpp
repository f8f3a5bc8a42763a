// Scalar codes decode by their definition, and damaged ones are refused.
#include <gmock/gmock.h>

#include "base/float16.h"
#include "codec/scalar/scalar.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

// Two experts [3, 10], 3 bits, groups of 5 columns, with an order that reverses the columns of the second.
struct Stored {
  static constexpr int64_t kRows = 3, kColumns = 10, kGroup = 5;
  static constexpr int kBits = 3;
  std::vector<uint16_t> facts = {kBits, kGroup, kBits, kGroup}, scale, order;
  std::vector<uint8_t> codes = std::vector<uint8_t>(2 * kRows * 4), zero = std::vector<uint8_t>(2 * 3);
  PackedTensor tensor;

  Stored() {
    for (int i = 0; i < 12; ++i) scale.push_back(float_to_f16(0.25f * static_cast<float>(i + 1)));
    for (int64_t e = 0; e < 2; ++e) {
      for (int64_t r = 0; r < kRows; ++r)
        for (int64_t k = 0; k < kColumns; ++k) scalar::put(codes.data() + (e * kRows + r) * 4, k, kBits, code(e, r, k));
      for (int64_t i = 0; i < 6; ++i) scalar::put(zero.data() + e * 3, i, kBits, static_cast<unsigned>((i + e) % 8));
      for (int64_t k = 0; k < kColumns; ++k) order.push_back(static_cast<uint16_t>(e == 0 ? k : kColumns - 1 - k));
    }
    tensor.codec = CodecId::kScalar;
    tensor.shape = {2, kRows, kColumns};
    add("scalar", DType::kU16, facts), add("codes", DType::kU8, codes), add("scale", DType::kF16, scale);
    add("zero", DType::kU8, zero), add("order", DType::kU16, order);
  }
  template <typename T>
  void add(const char* name, DType dtype, const std::vector<T>& values) {
    tensor.parts.push_back({name, {dtype, {static_cast<int64_t>(values.size())}, reinterpret_cast<const std::byte*>(values.data())}});
  }
  static unsigned code(int64_t e, int64_t r, int64_t k) { return static_cast<unsigned>((3 * e + 5 * r + k) % 8); }
  void expect_refused(const char* reason) const {
    const Status status = codec_of(CodecId::kScalar).validate(tensor, "layer.weight");
    ASSERT_FALSE(status.has_value());
    EXPECT_EQ(status.error().code, ErrorCode::kBadInput);
    EXPECT_THAT(status.error().message, HasSubstr("layer.weight: "));
    EXPECT_THAT(status.error().message, HasSubstr(reason));
  }
};

TEST(ScalarCodec, DecodesByTheDefinition) {
  const Stored s;
  ASSERT_TRUE(codec_of(CodecId::kScalar).validate(s.tensor, "w").has_value());
  const Buffer<float> values = decode(s.tensor);
  for (int64_t e = 0; e < 2; ++e)
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t k = 0; k < 10; ++k) {
        const int64_t place = e == 0 ? k : 9 - k, at = r * 2 + place / 5;
        const float expected = 0.25f * static_cast<float>(e * 6 + at + 1) *
                               static_cast<float>(static_cast<int>(Stored::code(e, r, k)) - static_cast<int>((at + e) % 8));
        EXPECT_EQ(values[static_cast<size_t>((e * 3 + r) * 10 + k)], expected) << e << ' ' << r << ' ' << k;
      }
}

TEST(ScalarCodec, CodesOfEveryWidthComeBack) {
  for (int bits = 2; bits <= 8; ++bits) {
    std::vector<uint8_t> packed(static_cast<size_t>(scalar::row_bytes(37, bits)));
    const auto code = [&](int64_t i) { return static_cast<unsigned>(i * 37 + 11) & ((1u << bits) - 1); };
    for (int64_t i = 0; i < 37; ++i) scalar::put(packed.data(), i, bits, code(i));
    for (int64_t i = 0; i < 37; ++i) EXPECT_EQ(scalar::get(packed.data(), i, bits), code(i)) << bits << ' ' << i;
  }
}

TEST(ScalarCodec, GroupsDivideTheColumns) {
  EXPECT_EQ(scalar::group_columns(896, 128), 128);
  EXPECT_EQ(scalar::group_columns(576, 128), 64);
  EXPECT_EQ(scalar::group_columns(172, 128), 4);
  EXPECT_EQ(scalar::group_columns(172, 0), 172);
}

TEST(ScalarCodec, RefusesWhatIsDamaged) {
  for (const char* name : {"scalar", "codes", "scale", "zero"}) {
    Stored s;
    std::erase_if(s.tensor.parts, [&](const PackedTensor::Part& part) { return part.name == name; });
    s.expect_refused(name);
  }
  for (size_t i = 0; i < 5; ++i) {
    Stored s;
    --s.tensor.parts[i].view.shape[0];
    s.expect_refused(s.tensor.parts[i].name.c_str());
  }
  Stored bits, group, differ, scale, order;
  bits.facts[0] = 9, bits.expect_refused("9 bits");
  group.facts[1] = 3, group.expect_refused("groups of 3");
  differ.facts[2] = 4, differ.expect_refused("different bits");
  scale.scale[4] = 0x7c00, scale.expect_refused("scale 4");
  order.order[3] = 4, order.expect_refused("order");
  order.order[3] = 10, order.expect_refused("order");
}

}  // namespace
}  // namespace tq
