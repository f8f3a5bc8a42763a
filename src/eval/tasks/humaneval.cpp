#include "eval/tasks/sandbox.h"
#include "eval/tasks/task.h"

namespace tq {

// Chen et al. 2021; stop texts and the way of testing as in lm-evaluation-harness.
Result<Task> load_humaneval(const TaskData& data) {
  TQ_ASSIGN(const std::vector<JsonLine> lines, data.lines("HumanEval.jsonl"));
  return task_of_lines("humaneval", lines, data.directory + "/HumanEval.jsonl");
}

Result<double> check_program(const Item& item, const std::string& generated) {
  const std::string program = item.context + generated + "\n" + item.answer + "\ncheck(" + item.name + ")\n";
  TQ_ASSIGN(const SandboxResult result, run_python(program, {}));
  return result.passed ? 1.0 : 0.0;
}

Result<bool> programs_are_isolated() {
  TQ_ASSIGN(const SandboxResult nothing, run_python("pass", {}));
  return nothing.isolated;
}

}  // namespace tq
