// A drawing as SVG text, to be placed inside a page whose style sheet colours the classes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tq::report {

// Text that is safe between tags and in quoted attributes.
std::string escaped(std::string_view text);

class Svg {
 public:
  // description: what the picture shows, for those who cannot see it.
  Svg(double width, double height, std::string_view description);

  enum class Anchor { kStart, kMiddle, kEnd };
  // `style` holds class names of the page's style sheet; `tip` appears under the pointer, empty: none.
  void rect(double x, double y, double width, double height, std::string_view style, std::string_view tip = {}, double radius = 0);
  void line(double x1, double y1, double x2, double y2, std::string_view style);
  void circle(double x, double y, double radius, std::string_view style, std::string_view tip = {});
  void path(const std::vector<std::pair<double, double>>& points, std::string_view style);
  void text(double x, double y, std::string_view text, std::string_view style = {}, Anchor anchor = Anchor::kStart);

  std::string str() const { return body_ + "</svg>\n"; }

 private:
  std::string body_;
};

// Round numbers from 0 to at least `top` (> 0), about `count` of them.
std::vector<double> ticks_to(double top, int count = 5);
// As few digits as the step between ticks asks for.
std::string tick_text(double value, double step);

}  // namespace tq::report
