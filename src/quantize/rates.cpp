#include "quantize/rates.h"

#include <algorithm>
#include <cmath>

#include "codec/grid/layout.h"

namespace tq {

namespace {

// Ranges from which on a matrix fills whole lines: of fewer, a range is too large a share to be given back.
constexpr int64_t kManyRanges = 16;

int64_t ranges_of_matrix(const Linear& linear) { return (linear.out + grid::kRateRows - 1) / grid::kRateRows; }

// Shares out what a mean of `bits` allows beyond its whole part, range by range.
class Sharer {
 public:
  explicit Sharer(double bits) : low_(static_cast<int>(std::floor(bits))), fraction_(bits - std::floor(bits)) {}

  void add(const Linear& linear, bool is_last, Rates& rates) {
    const int64_t ranges = ranges_of_matrix(linear);
    if (ranges < kManyRanges || is_last) add_in_turn(linear, ranges, rates);
    else add_whole_lines(linear, ranges, rates);
  }

 private:
  void add_in_turn(const Linear& linear, int64_t ranges, Rates& rates) {
    for (int64_t i = 0; i < ranges; ++i) {
      const double own = weights_of(linear, i);
      left_ += fraction_ * own;
      push(rates, fraction_ > 0 && own <= left_ * (1 + 1e-12), own);
    }
  }

  // So many higher ranges, evenly spread, that the plane rows fill whole lines, if the bits left allow one that does.
  void add_whole_lines(const Linear& linear, int64_t ranges, Rates& rates) {
    constexpr int64_t kGroup = grid::kLineRows / grid::kRateRows;
    left_ += fraction_ * static_cast<double>(linear.out * linear.in);
    const auto most = static_cast<int64_t>(left_ / static_cast<double>(grid::kRateRows * linear.in) * (1 + 1e-12));
    const int64_t too_many = (low_ * ranges + most) % kGroup, fitting = most >= too_many ? most - too_many : most;
    const int64_t higher = fraction_ > 0 ? std::min(most >= ranges ? ranges : fitting, ranges) : 0;
    for (int64_t i = 0; i < ranges; ++i) push(rates, (i + 1) * higher / ranges > i * higher / ranges, weights_of(linear, i));
  }

  void push(Rates& rates, bool is_higher, double own) {
    rates.push_back(static_cast<uint8_t>(low_ + is_higher));
    if (is_higher) left_ -= own;
  }

  int low_;
  double fraction_, left_ = 0;  // left_: bits that earlier ranges have not used
};

}  // namespace

int64_t ranges_of(const Linear& linear) { return std::max<int64_t>(1, linear.experts) * ranges_of_matrix(linear); }

double weights_of(const Linear& linear) {
  return static_cast<double>(std::max<int64_t>(1, linear.experts)) * static_cast<double>(linear.in) * static_cast<double>(linear.out);
}

double weights_of(const Linear& linear, int64_t range) {
  const int64_t row = range % ranges_of_matrix(linear) * grid::kRateRows;
  return static_cast<double>(std::min(grid::kRateRows, linear.out - row)) * static_cast<double>(linear.in);
}

std::vector<Rates> uniform_rates(std::span<const Linear* const> linears, double bits) {
  Sharer sharer(bits);
  std::vector<Rates> out;
  for (const Linear* linear : linears) {
    out.emplace_back();
    const int64_t matrices = std::max<int64_t>(1, linear->experts);
    for (int64_t e = 0; e < matrices; ++e) sharer.add(*linear, linear == linears.back() && e + 1 == matrices, out.back());
  }
  return out;
}

std::vector<const Linear*> rated_linears(const ModelSpec& spec) {
  std::vector<const Linear*> out = linears(spec);
  std::erase_if(out, [](const Linear* linear) { return linear->role == Role::kRouter; });
  return out;
}

Rates constant_rates(const Linear& linear, int rate) {
  const int64_t ranges = (linear.out + grid::kRateRows - 1) / grid::kRateRows;
  return Rates(static_cast<size_t>(std::max<int64_t>(1, linear.experts) * ranges), static_cast<uint8_t>(rate));
}

}  // namespace tq
