#include "codec/elements.h"

#include <cmath>
#include <cstring>

#include <gmock/gmock.h>

#include "base/float16.h"
#include "base/rng.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

PackedTensor matrix_of(Shape shape, const std::vector<float>& values) {
  auto buffer = Buffer<float>::uninitialized(values.size());
  std::copy(values.begin(), values.end(), buffer.begin());
  return plain_tensor(std::move(shape), std::move(buffer));
}

Status write(const PackedTensor& tensor, DType dtype, std::vector<std::byte>* out = nullptr, ThreadPool* threads = nullptr) {
  const std::string name = "matrix.weight";
  return write_elements(
      {name, tensor, 0, tensor.rows(), dtype},
      [&](std::span<const std::byte> band) -> Status {
        if (out) out->insert(out->end(), band.begin(), band.end());
        return {};
      },
      threads);
}

TEST(Elements, AreTheDecodedValuesRoundedOnAnyThreadsAndInAnyNumberOfBands) {
  constexpr int64_t kRows = 1031, kColumns = 2053;  // three bands
  Rng rng(3);
  std::vector<float> values(kRows * kColumns);
  for (float& each : values) each = static_cast<float>(rng.gaussian());
  const PackedTensor tensor = matrix_of({kRows, kColumns}, values);
  ThreadPool threads(3);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<std::byte> alone, shared;
    ASSERT_TRUE(write(tensor, dtype, &alone));
    ASSERT_TRUE(write(tensor, dtype, &shared, &threads));
    EXPECT_TRUE(alone == shared);
    ASSERT_EQ(alone.size(), values.size() * dtype_size(dtype));
    for (size_t i = 0; i < values.size(); i += 997) {
      uint32_t wanted = std::bit_cast<uint32_t>(values[i]), got = 0;
      if (dtype != DType::kF32) wanted = dtype == DType::kF16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
      std::memcpy(&got, alone.data() + i * dtype_size(dtype), dtype_size(dtype));
      ASSERT_EQ(got, wanted) << i;
    }
  }
}

TEST(Elements, OfSomeRowsAreThoseOfTheWhole) {
  std::vector<float> values(7 * 5);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const PackedTensor tensor = matrix_of({7, 5}, values);
  const std::string name = "matrix.weight";
  std::vector<std::byte> got;
  const auto keep = [&](std::span<const std::byte> band) -> Status { return got.insert(got.end(), band.begin(), band.end()), Status(); };
  ASSERT_TRUE(write_elements({name, tensor, 2, 6, DType::kF32}, keep, nullptr));
  ASSERT_EQ(got.size(), 20 * sizeof(float));
  EXPECT_EQ(std::memcmp(got.data(), values.data() + 10, got.size()), 0);
}

TEST(Elements, ThatATypeRoundsToInfinityAreRefusedWithTheTensorsName) {
  const float beyond_bf16 = std::bit_cast<float>(0x7f7f8000u), last_bf16 = std::bit_cast<float>(0x7f7f7fffu);  // 3.39e38
  for (const auto& [dtype, last, first] : {std::tuple{DType::kF16, 65519.0f, 65520.0f}, {DType::kBF16, last_bf16, beyond_bf16}}) {
    for (const float sign : {1.0f, -1.0f}) {
      EXPECT_TRUE(write(matrix_of({2, 3}, {0, 0, 0, 0, sign * last, 0}), dtype));
      const Status refused = write(matrix_of({2, 3}, {0, 0, 0, 0, sign * first, 0}), dtype);
      ASSERT_FALSE(refused.has_value());
      EXPECT_EQ(refused.error().code, ErrorCode::kBadInput);
      EXPECT_THAT(refused.error().message, HasSubstr("matrix.weight"));
      EXPECT_THAT(refused.error().message, HasSubstr(std::string(dtype_name(dtype))));
      EXPECT_TRUE(write(matrix_of({2, 3}, {0, 0, 0, 0, sign * first, 0}), DType::kF32));
    }
  }
}

TEST(Elements, AreRefusedWithTheFileWhereItIsKnown) {
  const std::string name = "matrix.weight";
  const auto refusal = [&](float value, std::string_view source) {
    const PackedTensor tensor = matrix_of({1, 1}, {value});
    const auto sink = [](std::span<const std::byte>) -> Status { return {}; };
    return write_elements({name, tensor, 0, 1, DType::kF16, source}, sink, nullptr).error().message;
  };
  for (const float value : {INFINITY, 1e30f}) {
    EXPECT_THAT(refusal(value, "model.gguf"), testing::StartsWith("model.gguf: tensor matrix.weight holds values"));
    EXPECT_THAT(refusal(value, ""), testing::StartsWith("tensor matrix.weight holds values"));
  }
}

TEST(Elements, ThatAreNoFiniteNumbersAreRefusedWithTheTensorsName) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const float value : {std::nanf(""), INFINITY, -INFINITY}) {
      const Status refused = write(matrix_of({1, 3}, {0, value, 0}), dtype);
      ASSERT_FALSE(refused.has_value());
      EXPECT_THAT(refused.error().message, HasSubstr("matrix.weight holds values that are no finite numbers"));
    }
  }
}

}  // namespace
}  // namespace tq
