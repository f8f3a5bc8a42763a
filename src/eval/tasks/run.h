// Runs a model on the items of a task, and compares two models that ran on the same items.
#pragma once

#include <optional>

#include "base/context.h"
#include "eval/statistics.h"
#include "eval/tasks/task.h"
#include "graph/network.h"

namespace tq {

struct TaskOptions {
  int64_t limit = 0;      // items at most, drawn by the seed; 0: all
  int64_t samples = 1;    // answers an item (kGeneration); more than one need a temperature
  float temperature = 0;  // 0: greedy
  uint64_t seed = 0;
};

// A figure of a task: a value for each item, in the same order for every model.
struct Metric {
  std::string name;
  std::vector<double> values;
  std::optional<double> chance;  // what guessing gives; none: nothing
  bool counts_flips = false;     // values are 1 for right and 0 for wrong, or shares of samples

  Mean mean() const { return mean_of(values); }
  // Within two standard errors of what guessing gives, or of one item: nothing can be claimed of it.
  bool is_near_chance() const;
};

struct TaskResult {
  std::string name, description;
  std::vector<std::string> ids, groups;  // of the items
  std::vector<Metric> metrics;
};

// The items that run: all, or `limit` of them drawn by the seed; in their order.
std::vector<size_t> chosen_items(size_t count, int64_t limit, uint64_t seed);

// Errors: kBadInput for a model without a tokenizer, kInterrupted, those of checkers.
Result<TaskResult> run_task(Network& network, const Task& task, const TaskOptions& options, const Context& context);

// A metric of a model minus the same of its original, item by item.
struct PairedDifference {
  Mean difference;
  double low = 0, high = 0;      // 95 % interval, normal approximation; NaN of one item
  int64_t gained = 0, lost = 0;  // items that became better or worse; for metrics that count flips
};
PairedDifference paired_difference(const Metric& metric, const Metric& original);
// "-0.0120 to +0.0310", times a factor; "-" of one item.
std::string interval_text(const PairedDifference& paired, double factor, int digits);

}  // namespace tq
