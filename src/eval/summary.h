// Results as JSON, in the shape that the program prints.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "eval/divergence.h"
#include "eval/tasks/run.h"

namespace tq {

// {"name", "window", "windows", "tokens", "kl": {"mean", "stderr"}, "ppl", "ppl_original", "top1", …}; what was not measured is left out.
Json text_json(const TextResult& result);
// {"name", "items", "metrics": [{"name", "mean", "stderr", "chance", "near_chance"}], "groups": […]}. With the original's result on the
// same items each metric also has "original", "original_stderr" and "difference": {"mean", "stderr", "low", "high", "gained", "lost"}.
Json task_json(const TaskResult& result, const TaskResult* original);
// What is printed for people, several lines.
std::string text_lines(const TextResult& result);
std::string task_lines(const TaskResult& result, const TaskResult* original);

}  // namespace tq
