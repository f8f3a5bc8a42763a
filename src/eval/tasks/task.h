// Tasks: questions with known answers, and what a model's answers are worth.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace tq {

enum class TaskKind : uint8_t {
  kChoice,        // the likeliest of several continuations
  kContinuation,  // how likely one continuation is
  kGeneration,    // free text that is checked
};

struct Item {
  std::string id, group;  // group: a subject, say; empty: none
  std::string context;    // few-shot examples included
  // kChoice: what may follow the context, delimiter included. kContinuation: the one. kGeneration: empty, or a model answer whose
  // likelihood is measured as well.
  std::vector<std::string> choices;
  // Where the contexts differ and the continuation does not (Winogrande): a context for each choice; choices holds the continuation.
  std::vector<std::string> contexts;
  size_t gold = 0;     // kChoice
  std::string answer;  // kGeneration: what the checker compares with
  std::string name;    // kGeneration: for the checker (a function's name)

  size_t options() const { return contexts.empty() ? choices.size() : contexts.size(); }
};

// 1 when the generated text answers the item, else 0; from several threads at once. Errors: the check itself could not be made.
using Checker = std::function<Result<double>(const Item&, const std::string& generated)>;

// A line of a file of lines, numbered from 1.
struct JsonLine {
  Json json;
  int64_t number = 0;
};

struct Task {
  std::string name;
  std::string description;  // how it is scored, in a line
  TaskKind kind = TaskKind::kChoice;
  std::vector<Item> items;
  bool by_bytes = false;          // kChoice: also the choice of the best log-likelihood a byte
  std::string metric;             // kGeneration: what its figure is called
  std::vector<std::string> stop;  // kGeneration
  int64_t max_tokens = 256;
  Checker check;
  // Whether programs that the model wrote run without a network; empty: none are run.
  std::function<Result<bool>()> is_isolated;
};

// Where the files of the known tasks are.
struct TaskData {
  std::string directory;
  // DIRECTORY/name, or DIRECTORY/name.gz unpacked. Errors: kBadInput with what to put there.
  Result<std::string> text(std::string_view name) const;
  // Every line of it as a JSON object.
  Result<std::vector<JsonLine>> lines(std::string_view name) const;
};

struct TaskEntry {
  std::string_view name, help;
  Result<Task> (*load)(const TaskData& data);
};
std::span<const TaskEntry> known_tasks();  // tasks.def

// Errors: kUsage for a name that is neither a known task nor a file NAME.jsonl, kBadInput for files.
Result<Task> load_task(const std::string& name, const TaskData& data);
// A task out of lines like those of the known ones: {"query", "choices", "gold"}, {"context_options", "continuation", "gold"},
// {"context", "continuation"}, {"question", "answer"} or {"prompt", "test", "entry_point"}. All lines have the same shape.
Result<Task> task_of_lines(const std::string& name, const std::vector<JsonLine>& lines, const std::string& where);
Result<std::vector<JsonLine>> json_lines(std::string_view text, const std::string& where);

// The last number in a text as GSM8K compares it: without $ and commas, without a full stop at its end. Empty: there is none.
std::string final_number(std::string_view text);
Result<double> check_number(const Item& item, const std::string& generated);
// The prompt, what was generated, and the item's tests: run by Python in a sandbox.
Result<double> check_program(const Item& item, const std::string& generated);
// Whether that sandbox has no network here: it runs a program that does nothing.
Result<bool> programs_are_isolated();

// Rows of comma-separated values; quotes as in RFC 4180.
Result<std::vector<std::vector<std::string>>> parse_csv(std::string_view text, const std::string& where);

}  // namespace tq
