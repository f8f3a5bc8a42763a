#include "eval/report/charts.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "eval/report/svg.h"

namespace tq::report {
namespace {

constexpr double kWidth = 760;

// A plot with a grid, values from 0 upwards and an axis title above.
struct Frame {
  double left = 56, right = kWidth - 12, top = 24, bottom = 214;
  std::vector<double> ticks;

  double height() const { return bottom + 40; }
  double y(double value) const { return bottom - value / ticks.back() * (bottom - top); }
  void draw(Svg& svg, const std::string& x_title, const std::string& y_title) const {
    for (const double tick : ticks) {
      svg.line(left, y(tick), right, y(tick), tick == 0 ? "axis" : "grid");
      svg.text(left - 8, y(tick) + 4, tick_text(tick, ticks[1]), "dim", Svg::Anchor::kEnd);
    }
    svg.text(left, 12, y_title, "dim");
    svg.text(right, bottom + 34, x_title, "dim", Svg::Anchor::kEnd);
  }
};

// At most `most` bytes, cut at a whole character; the tip has the rest.
std::string shortened(const std::string& label, size_t most) {
  if (label.size() <= most) return label;
  size_t end = most - 1;
  while (end > 0 && (static_cast<unsigned char>(label[end]) & 0xc0) == 0x80) --end;
  return label.substr(0, end) + "…";
}

}  // namespace

std::string series_style(size_t index) { return fmt::format("s{}", index % 9); }

std::string bar_chart(const std::vector<Bar>& bars, const std::string& description) {
  constexpr double kLeft = 200, kRight = kWidth - 190, kRow = 30;
  double top = 0;
  for (const Bar& bar : bars) top = std::max(top, bar.value + bar.error);
  const double scale = top > 0 ? (kRight - kLeft) / top : 0;
  Svg svg(kWidth, kRow * static_cast<double>(bars.size()) + 6, description);
  double y = 4;
  for (const Bar& bar : bars) {
    const double middle = y + 11, end = kLeft + scale * bar.value;
    svg.text(kLeft - 10, middle + 4, shortened(bar.label, 28), "", Svg::Anchor::kEnd);
    svg.rect(kLeft, y, std::max(2.0, end - kLeft), 22, bar.style, bar.label + ": " + bar.note, 3);
    double note_at = end;
    if (bar.error > 0) {
      note_at = end + scale * bar.error;
      svg.line(end - std::min(scale * bar.error, end - kLeft), middle, note_at, middle, "whisker");
      svg.line(note_at, middle - 4, note_at, middle + 4, "whisker");
    }
    svg.text(note_at + 8, middle + 4, bar.note, "value");
    y += kRow;
  }
  svg.line(kLeft, 0, kLeft, y, "axis");
  return svg.str();
}

std::string line_chart(const std::vector<Series>& series, double x_end, const std::string& x_title, const std::string& y_title,
                       const std::string& description) {
  double top = 0;
  for (const Series& each : series)
    for (size_t i = 0; i < each.values.size(); ++i) top = std::max(top, each.values[i] + (each.errors.empty() ? 0 : each.errors[i]));
  Frame frame;
  frame.ticks = ticks_to(top, 4);
  Svg svg(kWidth, frame.height(), description);
  frame.draw(svg, x_title, y_title);
  const std::vector<double> marks = ticks_to(x_end, 8);
  for (const double mark : marks) {
    if (mark > x_end) continue;
    const double x = frame.left + mark / x_end * (frame.right - frame.left);
    svg.text(x, frame.bottom + 16, tick_text(mark, marks[1]), "dim", Svg::Anchor::kMiddle);
  }
  for (const Series& each : series) {
    std::vector<std::pair<double, double>> points;
    const auto count = static_cast<double>(each.values.size());
    for (size_t i = 0; i < each.values.size(); ++i)
      points.emplace_back(frame.left + (static_cast<double>(i) + 0.5) / count * (frame.right - frame.left), frame.y(each.values[i]));
    for (size_t i = 0; i < each.errors.size(); ++i) {
      const double low = std::max(0.0, each.values[i] - each.errors[i]), high = each.values[i] + each.errors[i];
      svg.line(points[i].first, frame.y(low), points[i].first, frame.y(high), "band " + each.style);
    }
    svg.path(points, "stroke " + each.style);
    for (size_t i = 0; i < points.size(); ++i) {
      const std::string tip =
          fmt::format("{}, around position {:.0f}: {:.4f}", each.name, (static_cast<double>(i) + 0.5) / count * x_end, each.values[i]);
      svg.circle(points[i].first, points[i].second, 2.6, each.style, tip);
    }
  }
  return svg.str();
}

std::string dot_chart(const std::vector<Dot>& dots, int64_t columns, const std::string& x_title, const std::string& y_title,
                      const std::string& description) {
  double top = 0;
  for (const Dot& dot : dots) top = std::max(top, dot.value);
  Frame frame;
  frame.ticks = ticks_to(top, 5);
  Svg svg(kWidth, frame.height(), description);
  frame.draw(svg, x_title, y_title);
  const double step = (frame.right - frame.left) / static_cast<double>(std::max<int64_t>(1, columns));
  const auto x = [&](int64_t column) { return frame.left + (static_cast<double>(column) + 0.5) * step; };
  const int64_t stride = std::max<int64_t>(1, (columns + 19) / 20);
  for (int64_t column = 0; column < columns; column += stride)
    svg.text(x(column), frame.bottom + 16, std::to_string(column), "dim", Svg::Anchor::kMiddle);
  for (const Dot& dot : dots) svg.circle(x(dot.column), frame.y(dot.value), 4, dot.style + " dot", dot.tip);
  return svg.str();
}

std::string heat_map(const std::vector<HeatRow>& rows, const std::string& x_title, double low, double high,
                     const std::string& description) {
  constexpr double kLeft = 90, kRow = 24;
  constexpr int kShades = 7;
  size_t columns = 1;
  for (const HeatRow& row : rows) columns = std::max(columns, row.values.size());
  const double step = (kWidth - kLeft - 12) / static_cast<double>(columns);
  const double bottom = kRow * static_cast<double>(rows.size());
  Svg svg(kWidth, bottom + 40, description);
  for (size_t r = 0; r < rows.size(); ++r) {
    const double y = kRow * static_cast<double>(r);
    svg.text(kLeft - 10, y + 16, rows[r].label, "", Svg::Anchor::kEnd);
    for (size_t c = 0; c < rows[r].values.size(); ++c) {
      const double value = rows[r].values[c];
      if (!std::isfinite(value)) continue;
      const double share = high > low ? (value - low) / (high - low) : 0.5;
      const int shade = std::clamp(static_cast<int>(share * kShades), 0, kShades - 1);
      const double x = kLeft + step * static_cast<double>(c);
      svg.rect(x + 0.5, y + 1, step - 1, kRow - 2, fmt::format("h{}", shade),
               fmt::format("layer {}, {}: {:.4g} bits", c, rows[r].label, value), 2);
      const std::string text = fmt::format("{:.2g}", value);
      if (step >= 7.0 * static_cast<double>(text.size()) + 4)
        svg.text(x + step / 2, y + 16, text, shade >= 4 ? "on-dark" : "on-light", Svg::Anchor::kMiddle);
    }
  }
  const size_t stride = std::max<size_t>(1, (columns + 19) / 20);
  for (size_t c = 0; c < columns; c += stride)
    svg.text(kLeft + step * (static_cast<double>(c) + 0.5), bottom + 16, std::to_string(c), "dim", Svg::Anchor::kMiddle);
  svg.text(kWidth - 12, bottom + 34, x_title, "dim", Svg::Anchor::kEnd);
  return svg.str();
}

std::string heading(std::string_view title, std::string_view note) {
  return fmt::format("<h2>{}</h2>\n<p class=\"note\">{}</p>\n", escaped(title), escaped(note));
}

std::string legend(const std::vector<std::pair<std::string, std::string>>& style_and_name) {
  std::string out = "<p class=\"legend\">";
  for (const auto& [style, name] : style_and_name)
    out += fmt::format("<span><svg viewBox=\"0 0 12 12\" class=\"mark\"><circle cx=\"6\" cy=\"6\" r=\"5\" class=\"{}\"/></svg>{}</span>",
                       style, escaped(name));
  return out + "</p>\n";
}

}  // namespace tq::report
