#include "eval/tasks/task.h"

namespace tq {

// "Question: …\nAnswer: …", as lm-evaluation-harness asks; the file's queries have the first part.
Result<Task> load_arc_easy(const TaskData& data) {
  TQ_ASSIGN(std::vector<JsonLine> lines, data.lines("arc_easy.jsonl"));
  for (JsonLine& line : lines)
    if (line.json.contains("query") && line.json["query"].is_string())
      line.json["query"] = line.json["query"].get<std::string>() + "\nAnswer:";
  return task_of_lines("arc_easy", lines, data.directory + "/arc_easy.jsonl");
}

}  // namespace tq
