#include "eval/tasks/task.h"

namespace tq {

// "Question: …\nAnswer: …", as lm-evaluation-harness asks; the file's queries have the first part.
Result<Task> load_arc_easy(const TaskData& data) {
  TQ_ASSIGN(std::vector<Json> lines, data.lines("arc_easy.jsonl"));
  for (Json& line : lines)
    if (line.contains("query") && line["query"].is_string()) line["query"] = line["query"].get<std::string>() + "\nAnswer:";
  return task_of_lines("arc_easy", lines, data.directory + "/arc_easy.jsonl");
}

}  // namespace tq
