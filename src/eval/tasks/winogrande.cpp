#include "eval/tasks/task.h"

namespace tq {

// Partial scoring (Trinh and Le 2018): the same ending after each of two beginnings.
Result<Task> load_winogrande(const TaskData& data) {
  TQ_ASSIGN(const std::vector<JsonLine> lines, data.lines("winogrande.jsonl"));
  return task_of_lines("winogrande", lines, data.directory + "/winogrande.jsonl");
}

}  // namespace tq
