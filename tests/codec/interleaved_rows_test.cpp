#include "codec/interleaved_rows.h"

#include <gtest/gtest.h>

namespace tq {
namespace {

TEST(InterleavedRows, HalvesOfAHeadAlternate) {
  EXPECT_EQ(stored_row(0, 6), 0);
  EXPECT_EQ(stored_row(3, 6), 1) << "the first of the second half";
  EXPECT_EQ(stored_row(1, 6), 2);
  EXPECT_EQ(stored_row(6 + 5, 6), 6 + 5);
}

TEST(InterleavedRows, StoredAndLogicalRowsAreInverses) {
  for (const int64_t head_dim : {0, 2, 6, 48, 128})
    for (int64_t row = 0; row < 384; ++row) {
      EXPECT_EQ(logical_row(stored_row(row, head_dim), head_dim), row) << head_dim;
      EXPECT_EQ(stored_row(logical_row(row, head_dim), head_dim), row) << head_dim;
      if (head_dim > 0) EXPECT_EQ(stored_row(row, head_dim) / head_dim, row / head_dim) << "rows leave no head";
    }
}

}  // namespace
}  // namespace tq
