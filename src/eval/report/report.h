// One self-contained HTML page about one or several models and what they lost against their original.
#pragma once

#include <optional>

#include "eval/divergence.h"
#include "eval/report/facts.h"
#include "eval/tasks/run.h"

namespace tq::report {

struct Subject {
  ModelFacts model;
  std::vector<TextResult> texts;  // empty: nothing was measured
  std::vector<TaskResult> tasks;
  std::string method;  // of a comparison of methods: subjects of one method are joined by a line
};

struct Report {
  std::string title;  // empty: the names of the models
  std::optional<ModelFacts> original;
  std::vector<Subject> subjects;           // at least one; all measured on the same texts
  std::vector<TaskResult> original_tasks;  // in the order of the subjects' tasks, on the same items; empty without an original
  std::vector<std::string> notes;          // sentences below the title
  std::string protocol;                    // in words; empty when no text was measured
};

// No scripts, no fonts and no pictures from elsewhere; readable in light and dark. The same report gives the same bytes.
std::string page(const Report& report);

// Means of `values` (windows of per_window positions, one after another) over equal parts of the window, at most `parts` of them.
std::vector<double> by_position(const std::vector<double>& values, int64_t per_window, size_t parts);
// The standard errors of these means, over windows; zeros when there is one window.
std::vector<double> errors_by_position(const std::vector<double>& values, int64_t per_window, size_t parts);

}  // namespace tq::report
