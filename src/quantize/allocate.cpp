#include "quantize/allocate.h"

#include <algorithm>
#include <map>

#include "codec/grid/layout.h"

namespace tq {
namespace {

double weights_of(std::span<const Linear* const> linears, const Unit& unit) {
  double sum = 0;
  for (const Range& range : unit.ranges) sum += weights_of(*linears[range.linear], range.range);
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
      weights_ += tq::weights_of(*linear);
    }
    left_ = bits * weights_ * (1 + 1e-12);
  }

  Allocation run() {
    std::vector<Step> steps;
    for (size_t i = 0; i < units_.size(); ++i) {
      const double weights = weights_of(linears_, units_[i]);
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
  uint8_t& rate(const Range& range) { return out_.rates[range.linear][range.place()]; }

  void start(const Unit& unit, double weights) {
    for (const Range& range : unit.ranges) rate(range) = static_cast<uint8_t>(unit.choices[0].rate);
    out_.cost += unit.choices[0].cost;
    spent_ += weights * unit.choices[0].rate;
    left_ -= weights * unit.choices[0].rate;
  }

  // Whether the whole step fitted; if not, the ranges that do are taken.
  bool take(const Step& step) {
    const Unit& unit = units_[step.unit];
    const int change = step.to.rate - step.from.rate;
    if (unit.is_whole && weights_of(linears_, unit) * change > left_) return false;
    bool is_whole = true;
    for (const Range& range : unit.ranges) {
      const double bits = tq::weights_of(*linears_[range.linear], range.range) * change;
      if (bits > left_ && !unit.is_whole) {
        is_whole = false;
        continue;
      }
      rate(range) = static_cast<uint8_t>(step.to.rate);
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

std::vector<Range> all_ranges(const Linear& linear, size_t place) {
  std::vector<Range> out;
  for (int64_t i = 0; i < ranges_of(linear); ++i) out.push_back({place, i});
  return out;
}

}  // namespace

Allocation allocate(std::span<const Linear* const> linears, std::span<const Unit> units, double bits) {
  return Allocator(linears, units, bits).run();
}

Groups linear_parts(const ModelSpec& spec, std::span<const Linear* const> linears) {
  std::map<std::string, std::vector<int64_t>> borders;  // rows where the parts of a fused linear begin
  for (const auto& layer : spec.layers)
    for (const Block& block : layer) {
      if (const auto* op = std::get_if<Attention>(&block.op); op && op->qkv.size() == 1) {
        const int64_t query = op->heads * op->head_dim;
        borders[op->qkv[0].name] = {query, query + op->kv_heads * op->head_dim};
      }
      if (const auto* op = std::get_if<Mlp>(&block.op); op && op->gate_up.size() == 1) borders[op->gate_up[0].name] = {op->down.in};
    }
  Groups groups;
  for (size_t l = 0; l < linears.size(); ++l) {
    const auto found = borders.find(linears[l]->name);
    groups.emplace_back();
    size_t part = 0;
    for (const Range& range : all_ranges(*linears[l], l)) {
      for (; found != borders.end() && part < found->second.size() && range.range * grid::kRateRows >= found->second[part]; ++part)
        if (!groups.back().empty()) groups.emplace_back();
      groups.back().push_back(range);
    }
  }
  return groups;
}

Groups tied_linears(std::span<const Linear* const> linears, Target target) {
  Groups groups;
  for (const std::vector<size_t>& places : ties(linears, target)) {
    groups.emplace_back();
    for (const size_t place : places)
      for (const Range& range : all_ranges(*linears[place], place)) groups.back().push_back(range);
  }
  return groups;
}

Groups alike_ranges(std::span<const Linear* const> linears, const Groups& parts, const std::vector<std::vector<double>>& order) {
  constexpr size_t kTogether = grid::kLineRows / grid::kRateRows;
  Groups groups;
  for (const std::vector<Range>& part : parts) {
    std::vector<Range> sorted = part;
    if (linears[part[0].linear]->experts > 0) {
      groups.push_back(std::move(sorted));
      continue;
    }
    const auto key = [&](const Range& range) { return order[range.linear][range.place()]; };
    std::stable_sort(sorted.begin(), sorted.end(), [&](const Range& a, const Range& b) { return key(a) > key(b); });
    const size_t count = std::max<size_t>(1, sorted.size() / kTogether), start = groups.size();
    groups.resize(start + count);
    for (size_t i = 0; i < sorted.size(); ++i) groups[start + std::min(i / kTogether, count - 1)].push_back(sorted[i]);
  }
  return groups;
}

std::vector<Unit> make_units(std::span<const Linear* const> linears, const Groups& groups, const RangeCosts& costs, bool is_whole) {
  std::vector<Unit> units;
  for (const std::vector<Range>& ranges : groups) {
    Unit unit{.ranges = ranges, .choices = {}, .is_whole = is_whole || linears[ranges[0].linear]->experts > 0};
    for (const auto& [rate, cost] : costs) {
      double sum = 0;
      for (const Range& range : ranges) sum += cost[range.linear][range.place()];
      unit.choices.push_back({rate, sum});
    }
    units.push_back(std::move(unit));
  }
  return units;
}

}  // namespace tq
