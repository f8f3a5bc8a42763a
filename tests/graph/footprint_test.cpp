// What of a card's memory a model is said to take.
#include "graph/footprint.h"

#include <algorithm>
#include <string>

#include <gtest/gtest.h>

#include "convert/family_fixture.h"

namespace tq {
namespace {

using namespace families_test;

constexpr Network::Size kSize{.rows = 300, .head_rows = 1, .capacity = 512};

struct Stored {
  TemporaryDirectory directory;
  Model model;
  std::vector<CardMatrix> matrices;
  CardFootprint footprint;

  Stored(const Fixture& fixture, DType dtype) {
    write_hf(fixture.weights, fixture.json["config"], dtype, 1 << 30, directory / "model");
    model = read(load_model(directory / "model"));
    matrices = card_matrices(model);
    footprint = card_footprint(model.spec, matrices, kSize, 0);
  }
};

// Small regions share pages of a card; each has a multiple of so many bytes.
uint64_t on_card(int64_t bytes) { return static_cast<uint64_t>((bytes + 511) / 512 * 512); }

TEST(CardFootprint, PlainFloatsStayFloatsAndElementsOfSixteenBitsBecomeHalves) {
  for (const char* name : {"llama2", "gemma3", "mixtral"}) {
    const Fixture fixture = load_fixture(name);
    const Stored floats(fixture, DType::kF32), halves(fixture, DType::kF16), others(fixture, DType::kBF16);
    ASSERT_EQ(floats.matrices.size(), halves.matrices.size());
    uint64_t more = 0;
    int64_t widest = 0;
    for (const CardMatrix& each : floats.matrices) {
      const int64_t count = each.rows * each.columns;
      ASSERT_LT(4 * count, 1 << 20) << "as large as what has pages of its own";
      EXPECT_EQ(each.element_bytes, 4) << each.name;
      more += on_card(4 * count) - on_card(2 * count);
      if (!each.tap.empty()) widest = std::max(widest, each.columns);
    }
    for (const CardMatrix& each : halves.matrices) EXPECT_EQ(each.element_bytes, 2) << each.name;
    EXPECT_EQ(floats.footprint.weights, halves.footprint.weights + more) << name;
    EXPECT_EQ(others.footprint.weights, halves.footprint.weights) << name;
    // So has the input of a prompt's products.
    EXPECT_EQ(floats.footprint.working - halves.footprint.working, on_card(4 * kSize.rows * widest) - on_card(2 * kSize.rows * widest));
  }
}

// What a plan puts on the grid lies in plane rows, whatever it was.
TEST(CardFootprint, PlaneRowsTakeTheSameOfEveryKindOfElements) {
  ModelSpec spec;
  CardMatrix matrix{.name = "m", .tap = "t", .rows = 96, .columns = 128, .plane_rows = 3 * 96};
  const CardFootprint halves = card_footprint(spec, {matrix}, kSize, 0);
  matrix.element_bytes = 4;
  const CardFootprint floats = card_footprint(spec, {matrix}, kSize, 0);
  EXPECT_EQ(floats.weights, halves.weights);
  EXPECT_EQ(floats.working, halves.working);
}

// More than 32 tokens share sums that thread blocks have in common, if rows are bands of 16; others are decoded.
TEST(CardFootprint, BandsHaveSumsOfTheirOwnAndOtherRowsAreDecoded) {
  ModelSpec spec;
  const auto working = [&](int64_t rows, int64_t tokens, Precision precision) {
    const CardMatrix matrix{.name = "m", .tap = "t", .rows = rows, .columns = 1024, .plane_rows = 3 * rows};
    return card_footprint(spec, {matrix}, {.rows = tokens, .head_rows = 1, .capacity = 512, .precision = precision}, 0).working;
  };
  const auto more = [&](int64_t rows, Precision precision) { return working(rows, 33, precision) - working(rows, 32, precision); };
  EXPECT_GT(more(4096, Precision::kInt8), uint64_t{15} << 20);
  EXPECT_LT(more(4104, Precision::kInt8), uint64_t{12} << 20);
  EXPECT_GT(more(4104, Precision::kInt8), uint64_t{2} * 4104 * 1024 - (1 << 20));
  EXPECT_LT(more(4096, Precision::kInvariant), uint64_t{1} << 20);
}

// Matrices that share an input are decoded together, as many as there is memory for.
TEST(CardFootprint, MatricesOfATapAreDecodedTogetherUpToALimit) {
  ModelSpec spec;
  constexpr int64_t kRows = 4096, kDecoded = kRows * kRows * 2;  // four of these are the limit
  const auto working = [&](int count, bool is_shared) {
    std::vector<CardMatrix> matrices;
    for (int i = 0; i < count; ++i)
      matrices.push_back(
          {.name = "m", .tap = is_shared ? "t" : std::to_string(i), .rows = kRows, .columns = kRows, .plane_rows = 3 * kRows});
    return static_cast<int64_t>(
        card_footprint(spec, matrices, {.rows = 300, .head_rows = 1, .capacity = 512, .precision = Precision::kInt8}, 0).working);
  };
  constexpr int64_t kSums = 8 << 20;  // of plane rows, which grow too
  EXPECT_EQ(working(2, false), working(1, true));
  EXPECT_NEAR(static_cast<double>(working(2, true) - working(1, true)), kDecoded, kSums);
  EXPECT_NEAR(static_cast<double>(working(4, true) - working(1, true)), 3 * kDecoded, kSums);
  EXPECT_NEAR(static_cast<double>(working(6, true) - working(4, true)), 0, kSums);
}

}  // namespace
}  // namespace tq
