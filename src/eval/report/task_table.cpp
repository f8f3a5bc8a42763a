#include "eval/report/task_table.h"

#include "base/counted.h"
#include "eval/report/charts.h"
#include "eval/report/svg.h"

namespace tq::report {
namespace {

struct Scale {
  double factor;
  int digits;
};
// Shares in per cent, everything else as it is.
Scale scale_of(const Metric& metric) { return metric.counts_flips ? Scale{100, 1} : Scale{1, 4}; }

std::string value_cell(const Metric& metric) {
  const auto [factor, digits] = scale_of(metric);
  const Mean mean = metric.mean();
  return fmt::format("<td{}>{:.{}f}{} <small>{}</small></td>", metric.is_near_chance() ? " class=\"void\"" : "", factor * mean.mean, digits,
                     metric.is_near_chance() ? " †" : "", error_text(factor * mean.standard_error, digits));
}

std::string difference_cells(const Metric& metric, const Metric& original) {
  const auto [factor, digits] = scale_of(metric);
  const PairedDifference paired = paired_difference(metric, original);
  std::string out =
      fmt::format("<td>{:+.{}f} <small>{}</small></td>", factor * paired.difference.mean, digits, interval_text(paired, factor, digits));
  return out + (metric.counts_flips ? fmt::format("<td>+{} −{}</td>", paired.gained, paired.lost) : "<td>–</td>");
}

// A figure of a task: the original's row, then one for each model with its paired difference.
std::string metric_rows(const Report& report, size_t task, size_t metric) {
  const TaskResult& result = report.subjects[0].tasks[task];
  const bool with_original = !report.original_tasks.empty();
  std::string out =
      fmt::format("<tr><th colspan=\"4\">{}, {}{}: {}</th></tr>\n", escaped(result.name), escaped(result.metrics[metric].name),
                  result.metrics[metric].counts_flips ? ", %" : "", counted(result.ids.size(), "item"));
  if (with_original)
    out += fmt::format("<tr><td>{}</td>{}<td></td><td></td></tr>\n", escaped(report.original->name),
                       value_cell(report.original_tasks[task].metrics[metric]));
  for (const Subject& subject : report.subjects) {
    const Metric& own = subject.tasks[task].metrics[metric];
    out += fmt::format("<tr><td>{}</td>{}{}</tr>\n", escaped(subject.model.name), value_cell(own),
                       with_original ? difference_cells(own, report.original_tasks[task].metrics[metric]) : "<td></td><td></td>");
  }
  return out;
}

}  // namespace

std::string task_table(const Report& report) {
  if (report.subjects[0].tasks.empty()) return {};
  std::string out =
      "<section>" +
      heading("Tasks",
              "± one standard error over items. Differences are paired, item by item, with their 95 % interval, and how many items "
              "were gained and lost. † within two standard errors of guessing: no claim can rest on it.") +
      "<table><tr><th>model</th><th>figure</th><th>difference</th><th>items</th></tr>\n";
  for (size_t t = 0; t < report.subjects[0].tasks.size(); ++t)
    for (size_t m = 0; m < report.subjects[0].tasks[t].metrics.size(); ++m) out += metric_rows(report, t, m);
  return out + "</table></section>\n";
}

}  // namespace tq::report
