#include "quantize/rates.h"

#include <algorithm>
#include <cmath>

#include "codec/grid/layout.h"

namespace tq {

namespace {

// How many of the ranges of a matrix get one bit more: at most `most`, and so many that the plane rows fill whole lines, if that is
// possible.
int64_t higher_ranges(int64_t ranges, int low, int64_t most) {
  constexpr int64_t kGroup = grid::kLineRows / grid::kRateRows;
  if (most >= ranges) return ranges;
  const int64_t too_many = (low * ranges + most) % kGroup;
  return most >= too_many ? most - too_many : most;
}

}  // namespace

std::vector<Rates> uniform_rates(std::span<const Linear* const> linears, double bits) {
  const int low = static_cast<int>(std::floor(bits));
  std::vector<Rates> out;
  double left = 0;  // bits that earlier matrices have not used
  for (const Linear* linear : linears) {
    Rates rates;
    const int64_t ranges = (linear->out + grid::kRateRows - 1) / grid::kRateRows;
    const auto weights = static_cast<double>(linear->out * linear->in), range_bits = static_cast<double>(grid::kRateRows * linear->in);
    for (int64_t e = 0; e < std::max<int64_t>(1, linear->experts); ++e) {
      left += (bits - low) * weights;
      const auto most = static_cast<int64_t>(left / range_bits * (1 + 1e-12));
      const bool is_last = linear == linears.back() && e + 1 >= linear->experts;  // takes all that is left
      const int64_t fitting = is_last ? std::min(ranges, most) : higher_ranges(ranges, low, most), higher = bits > low ? fitting : 0;
      for (int64_t i = 0; i < ranges; ++i) {
        const bool is_higher = (i + 1) * higher / ranges > i * higher / ranges;  // spread evenly
        rates.push_back(static_cast<uint8_t>(low + is_higher));
        if (is_higher) left -= static_cast<double>(std::min(grid::kRateRows, linear->out - i * grid::kRateRows) * linear->in);
      }
    }
    out.push_back(std::move(rates));
  }
  return out;
}

Rates constant_rates(const Linear& linear, int rate) {
  const int64_t ranges = (linear.out + grid::kRateRows - 1) / grid::kRateRows;
  return Rates(static_cast<size_t>(std::max<int64_t>(1, linear.experts) * ranges), static_cast<uint8_t>(rate));
}

}  // namespace tq
