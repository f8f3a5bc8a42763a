#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "eval/report/charts.h"
#include "eval/report/svg.h"

namespace tq::report {
namespace {

constexpr double kWidth = 760, kLeft = 64, kRight = kWidth - 16, kTop = 24, kBottom = 304;

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void add(double value) { low = std::min(low, value), high = std::max(high, value); }
};

// 1, 2 and 5 times powers of ten within the range.
std::vector<double> logarithmic_ticks(double low, double high) {
  std::vector<double> ticks;
  for (double power = std::pow(10.0, std::floor(std::log10(low))); power <= high; power *= 10)
    for (const double factor : {1.0, 2.0, 5.0})
      if (factor * power >= low && factor * power <= high) ticks.push_back(factor * power);
  return ticks;
}

}  // namespace

std::string curve_chart(const std::vector<Curve>& curves, const std::string& x_title, const std::string& y_title,
                        const std::string& description) {
  Range xs, ys;
  for (const Curve& curve : curves)
    for (const Point& point : curve.points) {
      xs.add(point.x);
      ys.add(point.y + point.error);
      ys.add(std::max(point.y - point.error, point.y / 2));
    }
  if (!(xs.low <= xs.high)) return {};
  const double margin = std::max(0.1, 0.05 * (xs.high - xs.low));
  const double x_low = xs.low - margin, x_high = xs.high + margin, y_low = ys.low / 1.2, y_high = ys.high * 1.2;
  const auto at_x = [&](double x) { return kLeft + (x - x_low) / (x_high - x_low) * (kRight - kLeft); };
  const auto at_y = [&](double y) {
    return kBottom - (std::log(std::max(y, y_low)) - std::log(y_low)) / (std::log(y_high) - std::log(y_low)) * (kBottom - kTop);
  };
  Svg svg(kWidth, kBottom + 40, description);
  for (const double tick : logarithmic_ticks(y_low, y_high)) {
    svg.line(kLeft, at_y(tick), kRight, at_y(tick), "grid");
    svg.text(kLeft - 8, at_y(tick) + 4, fmt::format("{:.3g}", tick), "dim", Svg::Anchor::kEnd);
  }
  svg.line(kLeft, kBottom, kRight, kBottom, "axis");
  const double step = x_high - x_low > 3 ? 1 : x_high - x_low > 1 ? 0.5 : 0.1;
  for (double mark = std::ceil(x_low / step) * step; mark <= x_high; mark += step)
    svg.text(at_x(mark), kBottom + 16, tick_text(mark, step), "dim", Svg::Anchor::kMiddle);
  svg.text(kLeft, 12, y_title, "dim");
  svg.text(kRight, kBottom + 34, x_title, "dim", Svg::Anchor::kEnd);
  for (const Curve& curve : curves) {
    std::vector<std::pair<double, double>> path;
    for (const Point& point : curve.points) path.emplace_back(at_x(point.x), at_y(point.y));
    svg.path(path, "stroke " + curve.style);
    for (const Point& point : curve.points) {
      if (point.error > 0) svg.line(at_x(point.x), at_y(point.y - point.error), at_x(point.x), at_y(point.y + point.error), "whisker");
      svg.circle(at_x(point.x), at_y(point.y), 4, curve.style, point.tip);
    }
  }
  return svg.str();
}

}  // namespace tq::report
