// E8P: its tables, its transforms, its error on Gaussian weights, and what is stored.
#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "base/float16.h"
#include "base/rng.h"
#include "codec/e8p/e8p_rounder.h"

namespace tq::e8p {
namespace {

std::vector<float> gaussian(int64_t count, uint64_t seed) {
  std::vector<float> out(static_cast<size_t>(count));
  Rng rng(seed);
  for (float& each : out) each = static_cast<float>(rng.gaussian());
  return out;
}

TEST(E8p, TablesHoldDistinctPointsOfTheirLattices) {
  for (const auto& [table, longest] : {std::pair(absolute_table(), 12.0), std::pair(residual_table(), 4.0)}) {
    ASSERT_EQ(table.size(), 2048u);
    std::set<std::vector<float>> points;
    for (size_t e = 0; e < 256; ++e) {
      const std::vector<float> point(table.begin() + static_cast<int64_t>(e) * 8, table.begin() + static_cast<int64_t>(e + 1) * 8);
      double length = 0, sum = 0;
      for (const float x : point) length += static_cast<double>(x * x), sum += static_cast<double>(x);
      EXPECT_LE(length, longest);
      EXPECT_EQ(sum, std::round(sum));
      points.insert(point);
    }
    EXPECT_EQ(points.size(), 256u);
  }
}

// The definition: all 65536 codes.
TEST(E8p, FindsTheNearestOfAllCodes) {
  const Book book(absolute_table());
  const std::vector<float> values = gaussian(8 * 12, 1);
  for (size_t n = 0; n < 12; ++n) {
    Vector x{};
    std::copy_n(values.begin() + static_cast<int64_t>(n) * 8, 8, x.begin());
    const auto error = [&](uint16_t code) {
      const Vector y = decode(book.entries.data(), code);
      double sum = 0;
      for (size_t i = 0; i < 8; ++i) sum += std::pow(static_cast<double>(x[i] - y[i]), 2);
      return sum;
    };
    double best = 1e9;
    for (int code = 0; code < 65536; ++code) best = std::min(best, error(static_cast<uint16_t>(code)));
    EXPECT_NEAR(error(encode(book, x)), best, 1e-5);
  }
}

// The paper's figures for a unit Gaussian; ours may be better, not more than 2 % worse.
TEST(E8p, GaussianErrorIsThatOfThePaper) {
  constexpr int64_t kRows = 4000, kColumns = 8;
  const std::vector<float> weight = gaussian(kRows * kColumns, 2);
  for (const auto& [bits, expected] : {std::pair(2, 0.0925), std::pair(3, 0.030), std::pair(4, 0.0100)}) {
    E8pRounder rounder(kRows, kColumns, bits, 1.0f, std::vector<uint8_t>(kRows / 8));
    std::vector<float> value(weight.size());
    rounder.round(0, weight.data(), value.data());
    double sum = 0;
    for (size_t i = 0; i < weight.size(); ++i) sum += std::pow(static_cast<double>(weight[i] - value[i]), 2);
    EXPECT_LT(sum / static_cast<double>(weight.size()), 1.02 * expected) << bits;
    EXPECT_GT(sum / static_cast<double>(weight.size()), 0.96 * expected) << bits;
  }
}

TEST(E8p, TransformsAreOrthonormalAndMixEverything) {
  for (const int64_t size : {8, 96, 20, 56, 576, 896, 4864, 140, 280}) {
    const Transform transform(size);
    std::vector<uint8_t> sign(static_cast<size_t>((size + 7) / 8));
    Rng rng(3);
    for (uint8_t& each : sign) each = static_cast<uint8_t>(rng.bits());
    const std::vector<float> x = gaussian(size, 4);
    std::vector<float> y = x, unit(static_cast<size_t>(size));
    transform.apply(y.data(), sign.data());
    double before = 0, after = 0;
    for (size_t i = 0; i < x.size(); ++i) before += std::pow(static_cast<double>(x[i]), 2), after += std::pow(static_cast<double>(y[i]), 2);
    EXPECT_NEAR(after / before, 1, 1e-5) << size;
    transform.undo(y.data(), sign.data());
    for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], 1e-4f) << size;
    unit[0] = 1;
    transform.apply(unit.data(), sign.data());
    for (const float each : unit) ASSERT_NEAR(std::fabs(each), 1 / std::sqrt(static_cast<float>(size)), 1e-5f) << size;
  }
  EXPECT_EQ(Transform(172).order(), 1);  // 4 * 43: blocks of four
}

// Stored as the rounder says, decoded as W = diag(row_sign) H_R^T W' H_C diag(sign).
TEST(E8p, DecodesWhatTheRounderStored) {
  constexpr int64_t kRows = 12, kColumns = 40;
  for (const int bits : {2, 3, 4}) {
    const std::vector<float> targets = gaussian(kRows * kColumns, 5);  // [C, R]
    std::vector<float> values(targets.size());
    const std::vector<uint8_t> row_sign = {0x35, 0x0a}, sign = {1, 2, 3, 4, 5};
    E8pRounder rounder(kRows, kColumns, bits, 1.0f, row_sign);
    for (int64_t k = 0; k < kColumns; k += 8) rounder.round(k, targets.data() + k * kRows, values.data() + k * kRows);
    const std::vector<RoundedPart> parts = rounder.finish();
    const Table absolute = absolute_table(), residual = residual_table();
    PackedTensor tensor;
    tensor.codec = CodecId::kE8p;
    tensor.shape = {kRows, kColumns};
    const auto add = [&](std::string name, DType dtype, const void* data, size_t count) {
      tensor.parts.push_back({std::move(name), {dtype, {static_cast<int64_t>(count)}, static_cast<const std::byte*>(data)}});
    };
    for (const RoundedPart& part : parts) add(part.name, part.dtype, part.bytes.data(), part.bytes.size() / dtype_size(part.dtype));
    add("sign", DType::kU8, sign.data(), sign.size());
    add("e8p.absolute", DType::kF32, absolute.data(), absolute.size());
    add("e8p.residual", DType::kF32, residual.data(), residual.size());
    const Status status = codec_of(CodecId::kE8p).validate(tensor, "w");
    ASSERT_TRUE(status.has_value()) << status.error().message;

    const Buffer<float> decoded = tq::decode(tensor);
    const Transform of_row(kColumns), of_column(kRows);
    std::vector<float> expected(values.size()), column(kRows);
    for (int64_t k = 0; k < kColumns; ++k) {
      std::copy_n(values.data() + k * kRows, kRows, column.data());
      of_column.undo(column.data(), row_sign.data());
      for (int64_t r = 0; r < kRows; ++r) expected[static_cast<size_t>(r * kColumns + k)] = column[static_cast<size_t>(r)];
    }
    for (int64_t r = 0; r < kRows; ++r) of_row.undo(expected.data() + r * kColumns, sign.data());
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(decoded[i], expected[i], 1e-5f) << bits;

    for (const char* name : {"vectors", "stage", "row_sign", "sign", "e8p.absolute"}) {
      PackedTensor damaged = tensor;
      std::erase_if(damaged.parts, [&](const PackedTensor::Part& part) { return part.name == name; });
      EXPECT_THAT(codec_of(CodecId::kE8p).validate(damaged, "w").error().message, testing::HasSubstr(name));
    }
    std::vector<uint16_t> scales;
    for (int64_t r = 0; r < kRows; ++r) scales.push_back(float_to_f16(0.5f + 0.125f * static_cast<float>(r)));
    PackedTensor scaled = tensor;
    scaled.parts.push_back({"row_scale", {DType::kF16, {kRows}, reinterpret_cast<const std::byte*>(scales.data())}});
    ASSERT_TRUE(codec_of(CodecId::kE8p).validate(scaled, "w"));
    const Buffer<float> moved = tq::decode(scaled);
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(moved[i], f16_to_float(scales[i / kColumns]) * decoded[i], 1e-5f) << bits;
    scales[3] = 0x7c00;  // infinity
    EXPECT_THAT(codec_of(CodecId::kE8p).validate(scaled, "w").error().message, testing::HasSubstr("row_scale"));

    PackedTensor cut = tensor;
    --cut.parts[0].view.shape[0];
    EXPECT_FALSE(codec_of(CodecId::kE8p).validate(cut, "w").has_value());
  }
}

}  // namespace
}  // namespace tq::e8p
