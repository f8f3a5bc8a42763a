// What `tq compare` prints: divergences and tasks of all artifacts.
#pragma once

#include <span>
#include <string>

#include "eval/report/report.h"

namespace tq::cli {

struct ComparedModel {
  const report::Subject* subject;
  std::string label;
  double bits = 0;     // that were asked for
  double seconds = 0;  // that it took to make; 0: not known
};

// A row for each model, by bits and then by its divergence on the first text; empty without texts.
std::string text_table(std::vector<ComparedModel> models, const report::Report& report);
// The same for each figure of each task, with differences from the original; figures that no claim can rest on are marked and named.
std::string task_table(std::vector<ComparedModel> models, const report::Report& report);

}  // namespace tq::cli
