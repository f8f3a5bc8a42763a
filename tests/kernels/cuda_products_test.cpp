// Products with plain matrices and planes on a card.
#include "kernels/cuda_fixture.h"

namespace tq {
namespace {

// Halves of the input and of the decoded weights: 11 bits each.
constexpr double kHalfLimit = 6e-4;

TEST_F(CudaBackend, ProductsWithFloatsAreTheOracles) {
  for (const int64_t columns : {17, 64, 300})
    for (const int64_t tokens : {1, 4, 9}) {
      const PackedTensor tensor = plain(100, columns);
      const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
      EXPECT_LT(relative(multiply(*cuda_, tensor, tokens, Precision::kFloat), expected), 1e-5) << columns << " " << tokens;
    }
}

TEST_F(CudaBackend, ProductsWithHalvesRoundTheInputOfManyTokensAtMost) {
  for (const int64_t tokens : {1, 4, 9}) {
    const PackedTensor tensor = random_halves(DType::kF16, 100, 320);
    const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
    EXPECT_LT(relative(multiply(*cuda_, tensor, tokens, Precision::kFloat), expected), 1e-5) << tokens;
    EXPECT_LT(relative(multiply(*cuda_, tensor, tokens, Precision::kInt8), expected), tokens > 4 ? kHalfLimit : 1e-5) << tokens;
  }
}

TEST_F(CudaBackend, GridProductsWithFloatActivationsAreTheOracles) {
  for (const int64_t tokens : {1, 9}) {
    const PackedTensor tensor = random_grid(100, 172, {3, 4, 2, 5});
    const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
    EXPECT_LT(relative(multiply(*cuda_, tensor, tokens, Precision::kFloat), expected), 2e-6) << tokens;
  }
}

// A cut is kept without the tiles in front of its first window, and may end with its tiles: nothing behind them is read
// (compute-sanitizer).
TEST_F(CudaBackend, CutsThatEndWithTheirTilesDecodeAsTheOracles) {
  const PackedTensor tensor = random_grid(1024, 300, std::vector<uint8_t>(32, 4));
  for (const int64_t begin : {32, 512, 992}) {
    const PackedTensor cut = cut_rows(tensor, 0, begin, 1024 - begin);
    for (const int64_t tokens : {1, 70})
      EXPECT_LT(relative(multiply(*cuda_, cut, tokens, Precision::kFloat), multiply(*ref_, cut, tokens, Precision::kFloat)), 1e-5)
          << begin << " " << tokens;
  }
}

// Up to four tokens the activations have 15 bits, up to eight 10, up to 32 8, unless the planes are many or a card has 16 tokens at most at
// a time; more go through halves.
TEST_F(CudaBackend, PackedPlanesLoseOnlyTheRoundingOfTheActivations) {
  for (const auto& rates : {std::vector<uint8_t>{3, 3, 3, 3}, {3, 4, 2, 5}, {6, 6, 6, 6}, {8, 2, 8, 2}, {1, 2, 4, 1}})
    for (const int64_t columns : {66, 172, 768, 9216})
      for (const int64_t tokens : {1, 2, 4, 5, 8, 11, 80}) {
        const PackedTensor tensor = random_grid(100, columns, rates);
        const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
        const bool is_int8 = tokens > 4 && tokens <= 32 && rates[0] + rates[1] < 10;
        const double limit = tokens > 32 ? kHalfLimit : is_int8 ? tokens <= 8 ? 0.003 : 0.012 : 1e-4;
        EXPECT_LT(relative(multiply(*cuda_, tensor, tokens, Precision::kInt8), expected), limit)
            << int{rates[0]} << " " << columns << " " << tokens;
      }
}

// Up to 32 tokens in one launch where the card has the memory for it: ragged numbers of them, columns in slices, rows that change their
// rate within a worker's tiles, rings that close within a tile.
TEST_F(CudaBackend, ManyTokensLoseOnlyTheRoundingOfTheActivations) {
  struct Case {
    int64_t rows, columns;
    std::vector<uint8_t> rates;
  };
  const Case cases[] = {{100, 172, {3, 4, 2, 5}},
                        {40, 1024, {3, 5}},
                        {1000, 4608, std::vector<uint8_t>(32, 3)},
                        {5000, 768, std::vector<uint8_t>(157, 4)},
                        {24, 512, {8}},
                        {360, 9216, {2, 2, 7, 2, 8, 2, 3, 4, 2, 2, 6, 2}}};
  for (const Case& each : cases) {
    const PackedTensor tensor = random_grid(each.rows, each.columns, each.rates);
    const auto expected = multiply(*ref_, tensor, 33, Precision::kFloat);
    for (const int64_t tokens : {9, 13, 16, 17, 31, 32, 33}) {
      const auto first = rows_of(expected, 0, tokens, each.rows);
      EXPECT_LT(relative(multiply(*cuda_, tensor, tokens, Precision::kInt8), first), tokens > 32 ? kHalfLimit : 0.012)
          << each.rows << " " << tokens;
      EXPECT_LT(relative(multiply(*cuda_, tensor, tokens, Precision::kInvariant), first), 1e-4) << each.rows << " " << tokens;
    }
  }
}

// Tensor cores decode where rows are bands of 16, in registers or (many tokens, columns in eights) to memory; the first band from behind
// the ring's closure. Several thread blocks add up what they have of a band, two of them or more.
TEST_F(CudaBackend, BandsDecodeToTheHalvesOfTheirRows) {
  struct Case {
    int64_t rows, columns;
    std::vector<int64_t> tokens;
  };
  const Case cases[] = {{16, 40, {33, 64, 65, 96, 97, 128, 200}},
                        {112, 768, {9, 32, 40, 90, 128, 129, 193}},
                        {6144, 256, {160, 192, 193}},
                        {224, 9216, {64, 200}},
                        {208, 172, {80, 300}},
                        {19200, 768, {33}},
                        {32, 28672, {33}}};
  for (const Case& each : cases)
    for (const int least : {2, 1}) {  // rate of some ranges; 1: few tokens too go this way
      std::vector<uint8_t> rates;
      for (int64_t r = 0; r < each.rows; r += 32) rates.push_back(static_cast<uint8_t>(least + (r / 32 + each.columns) % (9 - least)));
      const PackedTensor tensor = random_grid(each.rows, each.columns, rates);
      for (const int64_t tokens : each.tokens) {
        if (tokens <= 32 && least > 1) continue;
        const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
        EXPECT_LT(relative(multiply(*cuda_, tensor, tokens, Precision::kInt8), expected), kHalfLimit)
            << each.rows << " " << each.columns << " " << tokens << " " << least;
      }
    }
}

TEST_F(CudaBackend, ManyRowsAreSharedOutAmongAllMultiprocessors) {
  const PackedTensor tensor = random_grid(9000, 512, std::vector<uint8_t>(282, 4));
  const auto expected = multiply(*ref_, tensor, 1, Precision::kFloat);
  EXPECT_LT(relative(multiply(*cuda_, tensor, 1, Precision::kInt8), expected), 1e-4);
}

// Their rows are decoded a strip after the other, by tables and (multiples of 16) by tensor cores; few tokens take the planes as they are.
TEST_F(CudaBackend, LargeMatricesAreDecodedInStrips) {
  constexpr int64_t kColumns = 9216;
  for (const int64_t rows : {7500, 7504}) {
    const PackedTensor tensor = random_grid(rows, kColumns, std::vector<uint8_t>(235, 2));
    auto many = multiply(*cuda_, tensor, 200, Precision::kInt8);
    many.resize(static_cast<size_t>(4 * rows));
    EXPECT_LT(relative(many, multiply(*cuda_, tensor, 4, Precision::kInt8)), kHalfLimit) << rows;
  }
}

// Norm or gate, product, sum in one go, with matrices of different codecs; of few tokens, and of many whose rows several thread blocks
// share.
TEST_F(CudaBackend, FusedProductsAreTheirParts) {
  constexpr int64_t kRows = 96, kHalfRows = 70;
  const auto run = [](Backend& backend, Precision precision, bool is_gated, int64_t tokens, int64_t columns) {
    const PackedTensor grid = random_grid(kRows, columns, {3, 4, 2}), half = random_halves(DType::kF16, kHalfRows, columns);
    Floats in(backend, gaussian(tokens * columns, 1)), weight(backend, gaussian(tokens * columns, 2));
    Floats made(backend, gaussian(tokens * columns, 1)), out(backend, gaussian(tokens * kRows, 3)),
        sum(backend, gaussian(tokens * kRows, 5)), second(backend, gaussian(tokens * kHalfRows, 4));
    const auto planes = backend.prepare(grid).value(), halves = backend.prepare(half).value();
    const NormArgs norm{.input = in.data(),
                        .weight = weight.data(),
                        .output = made.data(),
                        .count = tokens,
                        .width = columns,
                        .epsilon = 1e-5f,
                        .offset = 1};
    const GatedArgs gated{
        .gate = in.data(), .up = weight.data(), .output = made.data(), .tokens = tokens, .width = columns, .stride = columns};
    const LinearJob jobs[] = {{planes.get(), nullptr, out.data()}, {halves.get(), nullptr, second.data()}};
    const LinearArgs linear{.input = made.data(), .tokens = tokens, .jobs = {jobs, is_gated ? 1u : 2u}, .precision = precision};
    backend.fused_linear({.linear = linear,
                          .norm = is_gated ? nullptr : &norm,
                          .gated = is_gated ? &gated : nullptr,
                          .sum = is_gated ? sum.data() : nullptr});
    return std::pair(is_gated ? sum.values() : out.values(), second.values());
  };
  struct Case {
    int64_t tokens, columns;
    double limit;
  };
  for (const Case& each : {Case{1, 512, 1e-4}, {2, 512, 1e-4}, {140, 4608, kHalfLimit}, {600, 1024, kHalfLimit}})
    for (const bool is_gated : {false, true}) {
      const Precision exact = each.tokens > 32 ? Precision::kFloat : Precision::kInt8;  // many tokens are halves, few are rounded alike
      const auto got = run(*cuda_, Precision::kInt8, is_gated, each.tokens, each.columns);
      const auto expected = run(*ref_, exact, is_gated, each.tokens, each.columns);
      EXPECT_LT(relative(got.first, expected.first), each.limit) << each.tokens << " " << is_gated;
      EXPECT_LT(relative(got.second, expected.second), each.limit) << each.tokens << " " << is_gated;
    }
}

}  // namespace
}  // namespace tq
