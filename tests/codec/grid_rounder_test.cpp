// The grid's rounder: tall matrices are cut into parts that threads encode side by side; columns may come in any order and again.
#include "codec/grid/grid_rounder.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "codec/grid/taps.h"
#include "codec/grid_matrix.h"

namespace tq::grid {
namespace {

constexpr int64_t kColumns = 3;

struct Case {
  int64_t rows;
  std::vector<uint8_t> rates;
  TapsByRate taps;
  std::vector<float> targets;  // [C, R]

  explicit Case(int64_t rows_) : rows(rows_), rates(static_cast<size_t>((rows + kRateRows - 1) / kRateRows), uint8_t{3}) {
    for (size_t i = 0; i < rates.size(); i += 3) rates[i] = 2;
    taps[2] = default_taps(2, 10), taps[3] = default_taps(3, 9);
    Rng rng(1);
    for (int64_t i = 0; i < rows * kColumns; ++i) targets.push_back(static_cast<float>(rng.gaussian()));
  }

  struct Result {
    std::vector<RoundedPart> parts;
    std::vector<float> values;
  };
  Result round(ThreadPool* threads, const std::vector<int64_t>& order = {}, int times = 1) const {
    GridRounder rounder(
        {.rows = rows, .columns = kColumns, .rates = rates, .taps = &taps, .isa = best_isa(), .order = order, .threads = threads},
        std::vector<float>(static_cast<size_t>(rows), 1.0f));
    Result out;
    out.values.resize(targets.size());
    for (int i = 0; i < times; ++i)
      for (int64_t k = 0; k < kColumns; ++k) {
        const int64_t column = order.empty() ? k : order[static_cast<size_t>(k)];
        rounder.round(k, targets.data() + column * rows, out.values.data() + column * rows);
      }
    out.parts = rounder.finish();
    return out;
  }
};

double mean_square(const Case& one, const Case::Result& result) {
  double sum = 0;
  for (size_t i = 0; i < one.targets.size(); ++i) {
    const double e = static_cast<double>(one.targets[i] - result.values[i]);
    sum += e * e;
  }
  return sum / static_cast<double>(one.targets.size());
}

void expect_stored(const Case& one, const Case::Result& result) {
  const Layout layout(one.rows, kColumns, one.rates);
  const auto* packed = reinterpret_cast<const uint8_t*>(result.parts[0].bytes.data());
  std::vector<uint8_t> bits(static_cast<size_t>(layout.plane_rows));
  std::vector<float> value(static_cast<size_t>(one.rows));
  for (int64_t k = 0; k < kColumns; ++k) {
    load_column(layout, k, packed, bits.data());
    ring_values(layout, one.taps, bits.data(), value.data());
    for (int64_t r = 0; r < one.rows; ++r)
      ASSERT_NEAR(value[static_cast<size_t>(r)], result.values[static_cast<size_t>(k * one.rows + r)], 1e-5f) << k << ' ' << r;
  }
}

TEST(GridRounder, CutsOfTallMatricesAreStoredRightAndCostNextToNothing) {
  const Case tall(16400), low(1600);
  const Case::Result whole = low.round(nullptr), cut = tall.round(nullptr);
  expect_stored(tall, cut);
  EXPECT_LT(mean_square(tall, cut), 1.03 * mean_square(low, whole));
}

TEST(GridRounder, PartsOfTallMatricesDoNotDependOnThreads) {
  const Case tall(16400);
  const Case::Result alone = tall.round(nullptr);
  for (const int count : {2, 3}) {
    ThreadPool threads(count);
    const Case::Result together = tall.round(&threads);
    EXPECT_EQ(together.values, alone.values);
    EXPECT_EQ(together.parts[0].bytes, alone.parts[0].bytes);
  }
}

TEST(GridRounder, ColumnsInAnotherOrderAndAgainAreTheSame) {
  const Case one(300);
  const Case::Result plain = one.round(nullptr), mixed = one.round(nullptr, {2, 0, 1}, 2);
  EXPECT_EQ(plain.parts[0].bytes, mixed.parts[0].bytes);
  expect_stored(one, mixed);
}

}  // namespace
}  // namespace tq::grid
