#include "quantize/allocate.h"

#include <algorithm>

#include "codec/grid/layout.h"

namespace tq {
namespace {

int64_t ranges_of(const Linear& linear) {
  return std::max<int64_t>(1, linear.experts) * ((linear.out + grid::kRateRows - 1) / grid::kRateRows);
}

// Weights of range i of a linear.
double weights_of(const Linear& linear, int64_t range) {
  const int64_t per_matrix = (linear.out + grid::kRateRows - 1) / grid::kRateRows;
  const int64_t row = range % per_matrix * grid::kRateRows;
  return static_cast<double>(std::min(grid::kRateRows, linear.out - row)) * static_cast<double>(linear.in);
}

double weights_of(const Linear& linear, const Unit& unit) {
  double sum = 0;
  for (int64_t i = 0; i < unit.ranges; ++i) sum += weights_of(linear, unit.first_range + i);
  return sum;
}

// From one corner of a unit's lower convex hull to the next.
struct Step {
  size_t unit = 0;
  Choice from, to;
  double gain = 0;  // for each bit
};

std::vector<Step> hull_steps(const Unit& unit, size_t index, double weights) {
  std::vector<Step> steps;
  for (size_t at = 0; at + 1 < unit.choices.size();) {
    size_t best = at;
    double best_gain = 0;
    for (size_t next = at + 1; next < unit.choices.size(); ++next) {
      const double bits = weights * (unit.choices[next].rate - unit.choices[at].rate);
      const double gain = (unit.choices[at].cost - unit.choices[next].cost) / bits;
      if (gain > best_gain) best = next, best_gain = gain;
    }
    if (best == at) break;  // no further bit gains
    steps.push_back({index, unit.choices[at], unit.choices[best], best_gain});
    at = best;
  }
  return steps;
}

class Allocator {
 public:
  Allocator(std::span<const Linear* const> linears, std::span<const Unit> units, double bits) : linears_(linears), units_(units) {
    for (const Linear* linear : linears) {
      out_.rates.emplace_back(static_cast<size_t>(ranges_of(*linear)), uint8_t{0});
      for (int64_t i = 0; i < ranges_of(*linear); ++i) weights_ += weights_of(*linear, i);
    }
    left_ = bits * weights_ * (1 + 1e-12);
  }

  Allocation run() {
    std::vector<Step> steps;
    for (size_t i = 0; i < units_.size(); ++i) {
      const double weights = weights_of(*linears_[units_[i].linear], units_[i]);
      start(units_[i], weights);
      for (Step& step : hull_steps(units_[i], i, weights)) steps.push_back(step);
    }
    std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.gain > b.gain; });
    std::vector<char> is_stopped(units_.size());  // a unit whose step did not fit whole takes no later one
    for (const Step& step : steps)
      if (!is_stopped[step.unit]) is_stopped[step.unit] = !take(step);
    out_.bits = spent_ / weights_;
    return std::move(out_);
  }

 private:
  uint8_t& rate(const Unit& unit, int64_t range) { return out_.rates[unit.linear][static_cast<size_t>(unit.first_range + range)]; }

  void start(const Unit& unit, double weights) {
    for (int64_t i = 0; i < unit.ranges; ++i) rate(unit, i) = static_cast<uint8_t>(unit.choices[0].rate);
    out_.cost += unit.choices[0].cost;
    spent_ += weights * unit.choices[0].rate;
    left_ -= weights * unit.choices[0].rate;
  }

  // Whether the whole step fitted; if not, the ranges that do are taken.
  bool take(const Step& step) {
    const Unit& unit = units_[step.unit];
    const Linear& linear = *linears_[unit.linear];
    bool is_whole = true;
    for (int64_t i = 0; i < unit.ranges; ++i) {
      const double weights = weights_of(linear, unit.first_range + i), bits = weights * (step.to.rate - step.from.rate);
      if (bits > left_) {
        is_whole = false;
        continue;
      }
      rate(unit, i) = static_cast<uint8_t>(step.to.rate);
      out_.cost -= step.gain * bits;
      spent_ += bits, left_ -= bits;
    }
    return is_whole;
  }

  std::span<const Linear* const> linears_;
  std::span<const Unit> units_;
  Allocation out_;
  double weights_ = 0, spent_ = 0, left_ = 0;
};

}  // namespace

Allocation allocate(std::span<const Linear* const> linears, std::span<const Unit> units, double bits) {
  return Allocator(linears, units, bits).run();
}

std::vector<Unit> make_units(std::span<const Linear* const> linears, std::span<const PricedRate> rates, int base, int64_t ranges) {
  std::vector<Unit> units;
  for (size_t l = 0; l < linears.size(); ++l) {
    const int64_t all = ranges_of(*linears[l]), group = ranges > 0 ? ranges : all;
    for (int64_t first = 0; first < all; first += group) {
      Unit unit{.linear = l, .first_range = first, .ranges = std::min(group, all - first), .choices = {{base, 0.0}}};
      for (const PricedRate& priced : rates) {
        double cost = 0;
        for (int64_t i = first; i < first + unit.ranges; ++i) cost += priced.price[l][static_cast<size_t>(i)];
        unit.choices.push_back({priced.rate, cost});
      }
      std::sort(unit.choices.begin(), unit.choices.end(), [](const Choice& a, const Choice& b) { return a.rate < b.rate; });
      units.push_back(std::move(unit));
    }
  }
  return units;
}

}  // namespace tq
