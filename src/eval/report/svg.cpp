#include "eval/report/svg.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace tq::report {
namespace {

std::string tip_element(std::string_view tip) { return tip.empty() ? "" : fmt::format("<title>{}</title>", escaped(tip)); }

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

Svg::Svg(double width, double height, std::string_view description)
    : body_(fmt::format("<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">\n", width, height, escaped(description))) {}

void Svg::rect(double x, double y, double width, double height, std::string_view style, std::string_view tip, double radius) {
  body_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"{:.0f}\" class=\"{}\">{}</rect>\n", x, y,
                       std::max(0.0, width), std::max(0.0, height), radius, style, tip_element(tip));
}

void Svg::line(double x1, double y1, double x2, double y2, std::string_view style) {
  body_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>\n", x1, y1, x2, y2, style);
}

void Svg::circle(double x, double y, double radius, std::string_view style, std::string_view tip) {
  body_ +=
      fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\" class=\"{}\">{}</circle>\n", x, y, radius, style, tip_element(tip));
}

void Svg::path(const std::vector<std::pair<double, double>>& points, std::string_view style) {
  body_ += "<polyline points=\"";
  for (const auto& [x, y] : points) body_ += fmt::format("{:.1f},{:.1f} ", x, y);
  body_ += fmt::format("\" class=\"{}\"/>\n", style);
}

void Svg::text(double x, double y, std::string_view text, std::string_view style, Anchor anchor) {
  const char* where = anchor == Anchor::kStart ? "start" : anchor == Anchor::kMiddle ? "middle" : "end";
  body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" class=\"{}\">{}</text>\n", x, y, where, style, escaped(text));
}

std::vector<double> ticks_to(double top, int count) {
  if (!(top > 0) || !std::isfinite(top)) top = 1;
  const double raw = top / count, power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 2.5, 5.0}) {
    if (factor * power < raw * (1 - 1e-9)) continue;
    step = factor * power;
    break;
  }
  std::vector<double> ticks = {0};
  while (ticks.back() < top * (1 - 1e-9)) ticks.push_back(step * static_cast<double>(ticks.size()));
  return ticks;
}

std::string tick_text(double value, double step) {
  int digits = 0;
  while (digits < 9 && std::abs(step - std::round(step * std::pow(10, digits)) / std::pow(10, digits)) > 1e-9 * step) ++digits;
  return fmt::format("{:.{}f}", value, digits);
}

}  // namespace tq::report
