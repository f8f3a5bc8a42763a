// The kinds of pictures of a report. Values are finite; styles are classes "s0" … "s8" of the page.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tq::report {

std::string series_style(size_t index);

// A bar for each row: label at its left, value at its end; error is drawn as a whisker when it is positive.
struct Bar {
  std::string label, note;  // note: after the bar, in words
  double value = 0, error = 0;
  std::string style;
};
std::string bar_chart(const std::vector<Bar>& bars, const std::string& description);

// Lines over a common axis. A line's x are the centres of equal parts of [0, x_end].
struct Series {
  std::string name, style;
  std::vector<double> values;
  std::vector<double> errors;  // drawn as whiskers; empty: none
};
std::string line_chart(const std::vector<Series>& series, double x_end, const std::string& x_title, const std::string& y_title,
                       const std::string& description);

// Points joined by a line for each name, both axes free, y logarithmic; values are positive.
struct Point {
  double x = 0, y = 0, error = 0;
  std::string tip;
};
struct Curve {
  std::string name, style;
  std::vector<Point> points;  // by rising x
};
std::string curve_chart(const std::vector<Curve>& curves, const std::string& x_title, const std::string& y_title,
                        const std::string& description);

// Points over whole numbers [0, columns).
struct Dot {
  int64_t column = 0;
  double value = 0;
  std::string style, tip;
};
std::string dot_chart(const std::vector<Dot>& dots, int64_t columns, const std::string& x_title, const std::string& y_title,
                      const std::string& description);

// rows[i].values[column], NaN where there is nothing; shades from low to high over the whole picture.
struct HeatRow {
  std::string label;
  std::vector<double> values;
};
std::string heat_map(const std::vector<HeatRow>& rows, const std::string& x_title, double low, double high, const std::string& description);

// Title and explanation of a section.
std::string heading(std::string_view title, std::string_view note);

// Coloured marks with names.
std::string legend(const std::vector<std::pair<std::string, std::string>>& style_and_name);

}  // namespace tq::report
