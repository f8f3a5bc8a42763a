#include "quantize/rates.h"

#include <algorithm>
#include <cmath>

#include "codec/grid/layout.h"

namespace tq {

std::vector<Rates> uniform_rates(std::span<const Linear* const> linears, double bits) {
  const int low = static_cast<int>(std::floor(bits)), high = static_cast<int>(std::ceil(bits));
  std::vector<Rates> out;
  double allowed = 0, spent = 0;  // bits, of all ranges so far
  for (const Linear* linear : linears) {
    Rates rates;
    for (int64_t e = 0; e < std::max<int64_t>(1, linear->experts); ++e) {
      for (int64_t row = 0; row < linear->out; row += grid::kRateRows) {
        const auto weights = static_cast<double>(std::min(grid::kRateRows, linear->out - row) * linear->in);
        allowed += bits * weights;
        const int rate = spent + high * weights <= allowed * (1 + 1e-12) ? high : low;
        spent += rate * weights;
        rates.push_back(static_cast<uint8_t>(rate));
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
