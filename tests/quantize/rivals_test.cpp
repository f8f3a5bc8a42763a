// GPTQ, AWQ and round to nearest give what plain readings of their papers give (scripts/oracles/rounding_rivals.py).
#include <gtest/gtest.h>

#include <cmath>

#include "base/mapped_file.h"
#include "codec/codec.h"
#include "codec/scalar/scalar.h"
#include "quantize/awq.h"
#include "quantize/round_scalar.h"

namespace tq {
namespace {

constexpr int64_t kRows = 24, kColumns = 64, kGroup = 32;
constexpr int kBits = 3;

struct Fixture {
  Buffer<float> weight, hessian, magnitude, gptq, rtn, scales, awq;

  Fixture() {
    const auto file = MappedFile::open(TQ_TEST_DATA "/quantize/rivals.f32").value();
    const auto* next = reinterpret_cast<const float*>(file->bytes().data());
    const auto take = [&](int64_t count, Buffer<float>& out) {
      out = Buffer<float>(static_cast<size_t>(count));
      std::copy_n(next, count, out.data());
      next += count;
    };
    take(kRows * kColumns, weight), take(kColumns * kColumns, hessian), take(kColumns, magnitude);
    take(kRows * kColumns, gptq), take(kRows * kColumns, rtn), take(kColumns, scales), take(kRows * kColumns, awq);
  }
  Buffer<float> moment() const { return copy(hessian); }
  static Buffer<float> copy(const Buffer<float>& from) {
    auto out = Buffer<float>::uninitialized(from.size());
    std::copy(from.begin(), from.end(), out.begin());
    return out;
  }
  RowSource rows(const Buffer<float>& from) const {
    return [&from](int64_t first, int64_t count, float* out) { std::copy_n(from.data() + first * kColumns, count * kColumns, out); };
  }
};

// What is stored, decoded by the codec.
Buffer<float> decoded(const Rounded& rounded, int64_t rows = kRows) {
  PackedTensor tensor;
  tensor.codec = CodecId::kScalar;
  tensor.shape = {rows, kColumns};
  for (const RoundedPart& part : rounded.parts)
    tensor.parts.push_back(
        {part.name, {part.dtype, {static_cast<int64_t>(part.bytes.size() / dtype_size(part.dtype))}, part.bytes.data()}});
  const Status status = codec_of(CodecId::kScalar).validate(tensor, "w");
  EXPECT_TRUE(status.has_value()) << status.error().message;
  return decode(tensor);
}

void expect_same(const Buffer<float>& found, const Buffer<float>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 2e-6f + 2e-6f * std::fabs(expected[i])) << i;
}

double loss(const Fixture& f, const Buffer<float>& rounded) {
  double sum = 0;
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t i = 0; i < kColumns; ++i)
      for (int64_t j = 0; j < kColumns; ++j) {
        const auto e = [&](int64_t k) {
          const auto at = static_cast<size_t>(r * kColumns + k);
          return static_cast<double>(f.weight[at] - rounded[at]);
        };
        sum += e(i) * static_cast<double>(f.hessian[static_cast<size_t>(i * kColumns + j)]) * e(j);
      }
  return sum;
}

TEST(Rivals, RoundToNearestIsMinMaxByGroup) {
  const Fixture f;
  Objective objective = factored_objective(f.moment(), kColumns, 0.01, 1);
  objective.feedback = {}, objective.diagonal.clear();
  const Rounded rounded = round_to_scalar(
      {.weight = f.rows(f.weight), .rows = kRows, .columns = kColumns, .group = kGroup, .bits = kBits, .objective = &objective});
  expect_same(decoded(rounded), f.rtn);
  EXPECT_NEAR(rounded.loss.measured_error / loss(f, f.rtn), 1, 1e-3);
}

TEST(Rivals, GptqIsThatOfThePaper) {
  const Fixture f;
  const std::vector<int64_t> order = falling_diagonal(f.hessian, kColumns);
  const Objective objective = factored_objective(permuted(f.hessian, order), kColumns, 0.01, 1);
  const Rounded rounded = round_to_scalar({.weight = f.rows(f.weight),
                                           .rows = kRows,
                                           .columns = kColumns,
                                           .group = kGroup,
                                           .bits = kBits,
                                           .objective = &objective,
                                           .order = &order});
  expect_same(decoded(rounded), f.gptq);
  EXPECT_NEAR(rounded.loss.measured_error / loss(f, f.gptq), 1, 1e-3);
  EXPECT_LT(loss(f, f.gptq), 0.7 * loss(f, f.rtn));
}

TEST(Rivals, AwqIsThatOfThePaper) {
  const Fixture f;
  const std::vector<double> magnitude(f.magnitude.begin(), f.magnitude.end());
  std::vector<awq::Reader> readers;
  readers.push_back({Fixture::copy(f.weight), kRows, kBits});
  const awq::Input input{.columns = kColumns, .group = kGroup, .hessian = &f.hessian, .magnitude = magnitude};
  ThreadPool threads(3);
  const std::vector<float> scales = awq::search_scales(input, readers, &threads);
  EXPECT_EQ(scales, awq::search_scales(input, readers, nullptr));
  for (size_t k = 0; k < kColumns; ++k) EXPECT_NEAR(scales[k] / f.scales[k], 1, 1e-5) << k;

  Buffer<float> scaled = Fixture::copy(f.weight), moment = f.moment();
  for (size_t i = 0; i < scaled.size(); ++i) scaled[i] *= f.scales[i % kColumns];
  for (size_t i = 0; i < kColumns; ++i)
    for (size_t j = 0; j < kColumns; ++j) moment[i * kColumns + j] /= f.scales[i] * f.scales[j];
  Objective objective = factored_objective(std::move(moment), kColumns, 1e-6, 1);
  objective.feedback = {}, objective.diagonal.clear();
  Buffer<float> found = decoded(round_to_scalar({.weight = f.rows(scaled),
                                                 .rows = kRows,
                                                 .columns = kColumns,
                                                 .group = kGroup,
                                                 .bits = kBits,
                                                 .objective = &objective,
                                                 .searches_clip = true,
                                                 .threads = &threads}));
  for (size_t i = 0; i < found.size(); ++i) found[i] /= f.scales[i % kColumns];
  expect_same(found, f.awq);
  EXPECT_LT(loss(f, f.awq), loss(f, f.rtn));
}

// At 2 bits a matrix loses some thousand times as much as at 8, so that it decides.
TEST(Rivals, AwqJudgesEveryReaderByItsOwnBits) {
  const Fixture f;
  const std::vector<double> magnitude(f.magnitude.begin(), f.magnitude.end());
  const awq::Input input{.columns = kColumns, .group = kGroup, .hessian = &f.hessian, .magnitude = magnitude};
  const auto scales = [&](std::initializer_list<int> bits) {
    std::vector<awq::Reader> readers;
    for (const int each : bits) readers.push_back({Fixture::copy(f.weight), kRows, each});
    return awq::search_scales(input, readers, nullptr);
  };
  const std::vector<float> coarse = scales({2});
  EXPECT_NE(coarse, scales({8}));
  EXPECT_EQ(coarse, scales({2, 8}));
  EXPECT_EQ(coarse, scales({8, 2}));
}

// 600 rows are three blocks, the last of them short.
TEST(Rivals, BlocksOfRowsOnAnyNumberOfThreadsAreOneMatrix) {
  const Fixture f;
  const Objective objective = factored_objective(f.moment(), kColumns, 0.01, 1);
  constexpr int64_t kCopies = 25, kAll = kCopies * kRows;
  const auto weight = [&](int64_t first, int64_t count, float* out) {
    for (int64_t r = 0; r < count; ++r) std::copy_n(f.weight.data() + (first + r) % kRows * kColumns, kColumns, out + r * kColumns);
  };
  ThreadPool threads(3);
  ScalarRequest request{.weight = weight, .rows = kRows, .columns = kColumns, .group = kGroup, .bits = kBits, .objective = &objective};
  const Rounded one = round_to_scalar(request);
  request.rows = kAll;
  const Rounded alone = round_to_scalar(request);
  request.threads = &threads;
  const Rounded side_by_side = round_to_scalar(request);
  for (size_t p = 0; p < alone.parts.size(); ++p) EXPECT_EQ(alone.parts[p].bytes, side_by_side.parts[p].bytes) << alone.parts[p].name;
  EXPECT_EQ(alone.loss.error, side_by_side.loss.error);
  EXPECT_NEAR(alone.loss.error / (kCopies * one.loss.error), 1, 1e-5);
  const Buffer<float> expected = decoded(one), found = decoded(side_by_side, kAll);
  for (size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found[i], expected[i % expected.size()]) << i;
}

TEST(Rivals, ARangeOfWholeRowsIsFoundBeforeTheFirstColumn) {
  const Fixture f;
  const Objective objective = factored_objective(f.moment(), kColumns, 0.01, 1);
  const Rounded rounded = round_to_scalar(
      {.weight = f.rows(f.weight), .rows = kRows, .columns = kColumns, .group = kColumns, .bits = kBits, .objective = &objective});
  const Buffer<float> values = decoded(rounded);
  for (int64_t r = 0; r < kRows; ++r) {
    float least = 0, greatest = 0;
    for (int64_t k = 0; k < kColumns; ++k) {
      const float w = f.weight[static_cast<size_t>(r * kColumns + k)];
      least = std::min(least, w), greatest = std::max(greatest, w);
    }
    const scalar::Range range = scalar::min_max_range(least, greatest, kBits);
    for (int64_t k = 0; k < kColumns; ++k) {
      const float value = values[static_cast<size_t>(r * kColumns + k)];
      EXPECT_EQ(value, scalar::value_of(scalar::nearest_code(value, range, kBits), range));
    }
  }
}

}  // namespace
}  // namespace tq
