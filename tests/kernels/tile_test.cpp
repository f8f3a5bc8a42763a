// Integer tiles of grid matrices: the same on every instruction set, and what their rounding costs.
#include "kernels/cpu/tile/tile_linear.h"

#include "kernels/cpu/cpu_backend.h"
#include "kernels/matrices.h"

namespace tq {
namespace {

using namespace cpu;

class Tile : public testing::TestWithParam<Isa> {
 protected:
  ThreadPool threads_{2};
  std::unique_ptr<Backend> ref_ = make_ref_backend(threads_);
  std::unique_ptr<Backend> cpu_ = make_cpu_backend(threads_, GetParam());
};

struct Panels {
  int64_t bytes;
  std::vector<uint8_t> data;
};

Panels decode_tile(const PlaneMatrix& matrix, int64_t first, TileElement element, Isa isa) {
  const grid::Layout& layout = matrix.matrix().layout;
  Panels panels{(layout.columns + 31) / 32 * 32 * kPanelRows * bytes_of(element), {}};
  panels.data.resize(static_cast<size_t>(2 * panels.bytes));
  tile_kernels(isa).decode({.bits = matrix.matrix().bits,
                            .lines = layout.padded_columns / 4,
                            .plane_rows = layout.plane_rows,
                            .newest = layout.newest[static_cast<size_t>(first)],
                            .rows = std::min<int64_t>(32, layout.rows - first),
                            .taps = &matrix.tap_table(layout.rate[static_cast<size_t>(first)]),
                            .end_line = layout.padded_columns / 4},
                           element, panels.data.data(), panels.bytes);
  return panels;
}

TEST_P(Tile, IntegersAreThoseOfThePortableDecoderAndNearTheWeights) {
  for (const int64_t columns : {6, 172, 260})
    for (const auto& rates : {std::vector<uint8_t>{3, 3, 3, 3}, {2, 8, 5, 7}, {6, 4, 3, 2}, {1, 2, 1, 4}}) {
      const PackedTensor tensor = random_grid(101, columns, rates);
      const PlaneMatrix matrix(grid::open(tensor));
      std::vector<float> expected(static_cast<size_t>(32 * columns));
      for (int64_t first = 0; first < 101; first += 32) {
        for (const TileElement element : {TileElement::kInt8, TileElement::kInt16, TileElement::kSigned, TileElement::kSplit})
          EXPECT_EQ(decode_tile(matrix, first, element, GetParam()).data, decode_tile(matrix, first, element, Isa::kGeneric).data);
        const Panels panels = decode_tile(matrix, first, TileElement::kInt16, GetParam());
        const int64_t rows = std::min<int64_t>(32, 101 - first);
        grid::decode_rotated(matrix.matrix(), first, rows, expected.data());
        const TapTable& taps = matrix.tap_table(rates[static_cast<size_t>(first / 32)]);
        for (int64_t r = 0; r < rows; ++r) {
          const float scale = f16_to_float(matrix.matrix().row_scale[first + r]) * taps.unit;
          for (int64_t k = 0; k < columns; ++k) {
            int16_t word;
            std::memcpy(&word, panels.data.data() + r / 16 * panels.bytes + k / 2 * 64 + r % 16 * 4 + k % 2 * 2, 2);
            ASSERT_LE(std::abs(word), kLargestWeight);
            // Half a unit for each look-up.
            ASSERT_NEAR(word * scale, expected[static_cast<size_t>(r * columns + k)], 3.6 * scale) << first + r << " " << k;
          }
        }
      }
    }
}

// Of rows [first, first + count) times the rounded activations, in double.
std::vector<double> exact_product(const PlaneMatrix& matrix, const PlaneInput& input, bool has_bytes) {
  const int64_t rows = matrix.rows(), columns = input.columns(), streams = input.streams_per_token();
  std::vector<double> out(static_cast<size_t>(input.tokens() * rows));
  for (int64_t first = 0; first < rows; first += 32) {
    const Panels panels = decode_tile(matrix, first, TileElement::kInt16, Isa::kGeneric);
    const double unit = matrix.tap_table(matrix.matrix().layout.rate[static_cast<size_t>(first)]).unit * (has_bytes ? 32.0 : 1.0);
    for (int64_t r = first; r < std::min(rows, first + 32); ++r)
      for (int64_t t = 0; t < input.tokens(); ++t) {
        double sum = 0;
        for (int64_t k = 0; k < columns; ++k) {
          int16_t word;
          std::memcpy(&word, panels.data.data() + (r - first) / 16 * panels.bytes + k / 2 * 64 + r % 16 * 4 + k % 2 * 2, 2);
          const int weight = has_bytes ? (word + 16) >> 5 : word;
          for (int s = 0; s < streams; ++s)
            sum += static_cast<double>(input.stream(t, s).scale[k / 256]) * (weight * input.stream(t, s).values[k]);
        }
        out[static_cast<size_t>(t * rows + r)] = sum * unit * f16_to_float(matrix.matrix().row_scale[r]);
      }
  }
  return out;
}

TEST_P(Tile, ProductsAreThoseOfTheIntegersToTheRoundingOfFloats) {
  for (const bool high_precision : {false, true})
    for (const int64_t columns : {6, 66, 172, 260, 768, 1100})
      for (const int64_t tokens : {9, 16, 17, 32, 70}) {
        const PackedTensor tensor = random_grid(101, columns, {3, 6, 2, 4});
        const PlaneMatrix matrix(grid::open(tensor));
        PlaneInput input;
        input.set(gaussian(tokens * columns, 5).data(), tokens, columns, matrix.sign(), high_precision, GetParam(), threads_);
        std::vector<float> output(static_cast<size_t>(tokens * 101), NAN);
        const PlaneJob job{&matrix, nullptr, output.data()};
        TileWorkspace workspace;
        tile_linear({&job, 1}, input, GetParam(), threads_, workspace);
        const auto expected = exact_product(matrix, input, is_bytes(tile_element(high_precision, tile_kernels(GetParam()))));
        EXPECT_LT(relative(output, {expected.begin(), expected.end()}), 4e-7) << high_precision << " " << columns << " " << tokens;
      }
}

TEST_P(Tile, ManyTokensLoseTheRoundingOfActivationsAndOfBytesAlone) {
  // Activations in steps of 1 / 127 of some 3.2 standard deviations: 0.7 %. Weights as bytes, where the instruction set has such products,
  // in steps of 1 / 124 of some 4: 0.9 %.
  const bool has_bytes = is_bytes(tile_kernels(GetParam()).element[0]);
  for (const auto& [rates, limit] : {std::pair<std::vector<uint8_t>, double>{{3, 3, 3, 3}, has_bytes ? 0.016 : 0.012},
                                     {{2, 4, 3, 2}, has_bytes ? 0.016 : 0.012},
                                     {{6, 6, 6, 6}, 8e-4},
                                     {{5, 8, 7, 5}, 8e-4}})
    for (const int64_t columns : {66, 172, 768, 1100})
      for (const int64_t tokens : {9, 33}) {
        const PackedTensor tensor = random_grid(100, columns, rates);
        const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
        EXPECT_LT(relative(multiply(*cpu_, tensor, tokens, Precision::kInt8), expected), limit) << columns << " " << tokens;
      }
}

TEST_P(Tile, SixteenBitTilesGiveWhatPackedPlanesGive) {
  if (is_bytes(tile_kernels(GetParam()).element[0])) GTEST_SKIP() << "bytes here";
  const PackedTensor tensor = random_grid(300, 512, std::vector<uint8_t>(10, 3));
  const auto many = multiply(*cpu_, tensor, 9, Precision::kInt8);
  std::vector<float> eight = multiply(*cpu_, tensor, 8, Precision::kInt8);
  EXPECT_LT(relative(eight, {many.begin(), many.begin() + 8 * 300}), 1e-3);
}

TEST_P(Tile, MoreTokensThanOneRoundOfSumsHolds) {
  const PackedTensor tensor = random_grid(64, 64, {3, 4});
  const auto expected = multiply(*ref_, tensor, 801, Precision::kFloat);
  EXPECT_LT(relative(multiply(*cpu_, tensor, 801, Precision::kInt8), expected), 0.02);
  EXPECT_LT(relative(multiply(*cpu_, tensor, 801, Precision::kFloat), expected), 2e-6);
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, Tile, testing::ValuesIn(supported_isas()),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

}  // namespace
}  // namespace tq
