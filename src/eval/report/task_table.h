// The section of a report about tasks.
#pragma once

#include <string>

#include "eval/report/report.h"

namespace tq::report {

// Every figure of every task with its paired difference from the original; empty when no task ran.
std::string task_table(const Report& report);

}  // namespace tq::report
