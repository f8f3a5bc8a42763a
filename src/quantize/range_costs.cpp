#include "quantize/range_costs.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "codec/grid/grid.h"

namespace tq {
namespace {

struct Sums {
  double price = 0, curvature = 0, ranges = 0;
  void add(const MovePrice& own) { price += own.total(), curvature += own.second, ++ranges; }
  double share(const MovePrice& own) const { return price * (curvature > 0 ? own.second / curvature : 1 / ranges); }
};

}  // namespace

RangeCosts range_costs(std::span<const Linear* const> linears, const Groups& parts, const MovePrices& prices,
                       std::span<const Rates> standing, std::span<const int> rates) {
  RangeCosts out;
  for (const int rate : rates) {
    std::vector<std::vector<double>>& costs = out[rate];
    for (const Linear* linear : linears) costs.emplace_back(static_cast<size_t>(ranges_of(*linear)));
    for (const std::vector<Range>& part : parts) {
      const size_t l = part[0].linear;
      const auto& own = prices.at(linears[l]->name);
      const auto price = own.find(rate);
      if (price == own.end()) continue;           // all stand there
      std::array<Sums, grid::kMaxRate + 1> sums;  // by the rate that is stood at
      for (const Range& each : part) sums[standing[l][each.place()]].add(price->second[each.place()]);
      for (const Range& each : part)
        if (const int here = standing[l][each.place()]; here != rate)
          costs[l][each.place()] = sums[static_cast<size_t>(here)].share(price->second[each.place()]);
    }
  }
  return out;
}

std::vector<std::vector<double>> range_curvature(std::span<const Linear* const> linears, const MovePrices& prices, int rate) {
  std::vector<std::vector<double>> out;
  for (const Linear* linear : linears) {
    out.emplace_back();
    const std::vector<MovePrice>& price = prices.at(linear->name).at(rate);
    for (size_t i = 0; i < price.size(); ++i) out.back().push_back(price[i].second / weights_of(*linear, static_cast<int64_t>(i)));
  }
  return out;
}

void set_cost(RangeCosts& costs, int rate, std::span<const Range> ranges, double cost) {
  const auto at = [&](const Range& range) -> double& { return costs.at(rate)[range.linear][range.place()]; };
  double before = 0;  // a range that seemed to gain, by the first order, has no share
  for (const Range& range : ranges) before += std::max(0.0, at(range));
  for (const Range& range : ranges) {
    const double share = before > 0 ? std::max(0.0, at(range)) / before : 1.0 / static_cast<double>(ranges.size());
    at(range) = std::isfinite(cost) ? cost * share : cost;
  }
}

}  // namespace tq
