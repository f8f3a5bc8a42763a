#include "codec/grid/layout.h"

#include <algorithm>

#include "base/check.h"

namespace tq::grid {

Layout::Layout(int64_t rows_, int64_t columns_, std::span<const uint8_t> rates, int64_t lead)
    : rows(rows_), columns(columns_), plane_rows(lead) {
  TQ_CHECK(rows > 0 && columns > 0 && lead >= 0);
  TQ_CHECK(static_cast<int64_t>(rates.size()) == (rows + kRateRows - 1) / kRateRows);
  rate.resize(static_cast<size_t>(rows));
  newest.resize(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t k = rates[static_cast<size_t>(r / kRateRows)];
    TQ_CHECK(k >= kMinRate && k <= kMaxRate);
    plane_rows += k;
    rate[static_cast<size_t>(r)] = k;
    newest[static_cast<size_t>(r)] = plane_rows - 1;
  }
  padded_plane_rows = (plane_rows + kLineRows - 1) / kLineRows * kLineRows;
  padded_columns = (columns + kLineColumns - 1) / kLineColumns * kLineColumns;
}

double mean_rate(std::span<const uint8_t> rates, int64_t rows) {
  const auto ranges = static_cast<size_t>((rows + kRateRows - 1) / kRateRows);
  double bits = 0, counted = 0;
  for (size_t i = 0; i < rates.size(); ++i) {
    const auto here = static_cast<double>(std::min(kRateRows, rows - static_cast<int64_t>(i % ranges) * kRateRows));
    bits += here * rates[i], counted += here;
  }
  return bits / counted;
}

}  // namespace tq::grid
