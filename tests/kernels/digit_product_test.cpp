// Products of floats by digits: the digits are the numbers, every set of kernels gives the same, and the error is that of floats.
#include "kernels/cpu/digits/digit_linear.h"

#include "kernels/matrices.h"

namespace tq {
namespace {

using namespace cpu;

struct Split {
  std::vector<uint8_t> values;
  std::vector<float> scale;
  int64_t groups;
};

Split split(const std::vector<float>& rows, int64_t count, int64_t columns, bool is_left, const DigitKernels& kernels) {
  const int64_t groups = (columns + kDigitGroup - 1) / kDigitGroup;
  Split out{std::vector<uint8_t>(static_cast<size_t>(groups * kDigitBytes)), std::vector<float>(static_cast<size_t>(groups * kDigitRows)),
            groups};
  (is_left ? kernels.split_left : kernels.split_right)(
      {.rows = rows.data(), .stride = columns, .count = count, .columns = columns},
      {.values = out.values.data(), .group_bytes = kDigitBytes, .scale = out.scale.data(), .scale_stride = kDigitRows});
  return out;
}

// What a row's digits say, as documented.
double value_of(const Split& split, bool is_left, int64_t row, int64_t column) {
  const int64_t k = column % kDigitGroup, i = k % 16, j = k % kDigitStep / 16;
  double value = 0;
  for (int d = 0; d < kDigits; ++d) {
    const int64_t at = column / kDigitGroup * kDigitBytes + (k / kDigitStep * kDigits + d) * kDigitTileBytes +
                       (is_left ? row * 64 + 4 * i : i * 64 + row * 4) + j;
    value = value * 256 + static_cast<int8_t>(split.values[static_cast<size_t>(at)]);
  }
  return value / 256 * static_cast<double>(split.scale[static_cast<size_t>(column / kDigitGroup * kDigitRows + row)]);
}

// Every power of two, and numbers just below one.
std::vector<float> wide_range(int64_t count, uint64_t seed) {
  std::vector<float> out = gaussian(count, seed);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = std::ldexp(out[i], static_cast<int>(i / 256 * 37 % 150) - 80);
    if (i % 19 == 0) out[i] = std::copysign(std::nextafter(std::ldexp(1.0f, std::ilogb(out[i]) + 1), 0.0f), out[i]);
  }
  return out;
}

TEST(Digits, ARowsDigitsAreItsNumbersToTwoToTheMinus23OfItsLargest) {
  for (const int64_t columns : {1, 16, 63, 256, 300, 1027}) {
    const std::vector<float> rows = wide_range(13 * columns, 5);
    for (const bool is_left : {true, false}) {
      const Split digits = split(rows, 13, columns, is_left, digit_kernels_generic());
      for (int64_t r = 0; r < 13; ++r)
        for (int64_t k = 0; k < columns; ++k) {
          float largest = 0;
          for (int64_t i = k / 256 * 256; i < std::min(columns, k / 256 * 256 + 256); ++i)
            largest = std::max(largest, std::fabs(rows[static_cast<size_t>(r * columns + i)]));
          EXPECT_NEAR(value_of(digits, is_left, r, k), rows[static_cast<size_t>(r * columns + k)], std::ldexp(largest * 1.005f, -23))
              << r << " " << k;
        }
    }
  }
}

TEST(Digits, HalvesNearEachOtherAreExact) {
  std::vector<float> rows = gaussian(16 * 256, 2);
  for (float& x : rows) x = std::fabs(x) < 1e-3f ? 0.0f : f16_to_float(float_to_f16(x));
  const Split digits = split(rows, 16, 256, true, digit_kernels_generic());
  for (int64_t i = 0; i < 16 * 256; ++i) EXPECT_EQ(value_of(digits, true, i / 256, i % 256), rows[static_cast<size_t>(i)]);
}

class DigitsOfIsa : public testing::TestWithParam<Isa> {};

TEST_P(DigitsOfIsa, SplitAsThePortableOnes) {
  const DigitKernels* kernels = digit_kernels(GetParam());
  if (!kernels) GTEST_SKIP() << "no tiles of bytes";
  for (const int64_t columns : {1, 16, 63, 64, 256, 300, 1027})
    for (const int64_t count : {1, 7, 16}) {
      std::vector<float> rows = wide_range(count * columns, 5);
      rows.back() = INFINITY;
      for (const bool is_left : {true, false}) {
        Split got = split(rows, count, columns, is_left, *kernels),
              expected = split(rows, count, columns, is_left, digit_kernels_generic());
        const size_t last = static_cast<size_t>((got.groups - 1) * kDigitRows + count - 1);
        EXPECT_TRUE(std::isnan(got.scale[last]) && std::isnan(expected.scale[last]));
        got.scale[last] = expected.scale[last] = 0;
        EXPECT_EQ(got.scale, expected.scale);
        rows.back() = 1;
        got = split(rows, count, columns, is_left, *kernels), expected = split(rows, count, columns, is_left, digit_kernels_generic());
        // Steps behind the last column are not read.
        const auto end = static_cast<size_t>((got.groups - 1) * kDigitBytes +
                                             ((columns - 1) % kDigitGroup / kDigitStep + 1) * kDigits * kDigitTileBytes);
        got.values.resize(end), expected.values.resize(end);
        EXPECT_EQ(got.values, expected.values) << columns << " " << count << " " << is_left;
        rows.back() = INFINITY;
      }
    }
}

// Rows and tokens that fill no tile, a group that is not full; against double beside what float bands lose.
TEST_P(DigitsOfIsa, ProductsLoseWhatFloatsLose) {
  ThreadPool threads(2);
  for (const DigitKernels* kernels : {&digit_kernels_generic(), digit_kernels(GetParam())}) {
    if (!kernels) continue;
    for (const int64_t columns : {5, 64, 300, 1100})
      for (const int64_t tokens : {1, 16, 37})
        for (const int64_t rows : {1, 16, 141}) {
          if (kernels == &digit_kernels_generic() && rows * columns * tokens > 1 << 20) continue;
          const std::vector<float> weights = gaussian(rows * columns, 1), input = gaussian(tokens * columns, 2), bias = gaussian(rows, 3);
          std::vector<float> output(static_cast<size_t>(tokens * rows), NAN), expected(output.size());
          for (int64_t t = 0; t < tokens; ++t)
            for (int64_t r = 0; r < rows; ++r) {
              double sum = bias[static_cast<size_t>(r)];
              for (int64_t k = 0; k < columns; ++k)
                sum += static_cast<double>(weights[static_cast<size_t>(r * columns + k)]) * input[static_cast<size_t>(t * columns + k)];
              expected[static_cast<size_t>(t * rows + r)] = static_cast<float>(sum);
            }
          DigitInput packed;
          DigitWorkspace workspace;
          packed.pack(input.data(), tokens, columns, *kernels, threads);
          digit_linear({.rows = rows,
                        .decode = [&](int64_t begin, int64_t count,
                                      float* out) { std::copy_n(weights.data() + begin * columns, count * columns, out); },
                        .bias = bias.data(),
                        .output = output.data()},
                       packed, *kernels, threads, workspace);
          EXPECT_LT(relative(output, expected), 9e-7) << columns << " " << tokens << " " << rows;
        }
  }
}

TEST_P(DigitsOfIsa, ProductsHaveTheSameBitsOnAnyNumberOfThreads) {
  const DigitKernels* kernels = digit_kernels(GetParam());
  if (!kernels) GTEST_SKIP() << "no tiles of bytes";
  constexpr int64_t kColumns = 300, kTokens = 37;
  for (const int64_t rows : {141, 600}) {
    const std::vector<float> weights = gaussian(rows * kColumns, 1), input = gaussian(kTokens * kColumns, 2);
    std::vector<std::vector<float>> outputs;
    for (const int count : {1, 3}) {
      ThreadPool threads(count);
      outputs.emplace_back(static_cast<size_t>(kTokens * rows), NAN);
      DigitInput packed;
      DigitWorkspace workspace;
      packed.pack(input.data(), kTokens, kColumns, *kernels, threads);
      digit_linear(
          {.rows = rows,
           .decode = [&](int64_t begin, int64_t some, float* out) { std::copy_n(weights.data() + begin * kColumns, some * kColumns, out); },
           .output = outputs.back().data()},
          packed, *kernels, threads, workspace);
    }
    EXPECT_TRUE(outputs[0] == outputs[1]) << rows;
  }
}

TEST_P(DigitsOfIsa, WhatIsNotANumberStaysSo) {
  const DigitKernels* kernels = digit_kernels(GetParam());
  if (!kernels) GTEST_SKIP() << "no tiles of bytes";
  ThreadPool threads(1);
  std::vector<float> input = gaussian(20 * 300, 2);
  input[3 * 300 + 299] = NAN;
  std::vector<float> output(20 * 40);
  DigitInput packed;
  DigitWorkspace workspace;
  packed.pack(input.data(), 20, 300, *kernels, threads);
  digit_linear(
      {.rows = 40, .decode = [](int64_t, int64_t count, float* out) { std::fill_n(out, count * 300, 1.0f); }, .output = output.data()},
      packed, *kernels, threads, workspace);
  for (int64_t i = 0; i < 20 * 40; ++i) EXPECT_EQ(std::isnan(output[static_cast<size_t>(i)]), i / 40 == 3) << i;
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, DigitsOfIsa, testing::ValuesIn(supported_isas()),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

}  // namespace
}  // namespace tq
