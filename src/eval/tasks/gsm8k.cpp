#include <algorithm>

#include "eval/tasks/task.h"

namespace tq {
namespace {

constexpr size_t kShots = 5;

}  // namespace

// Prompts of lm-evaluation-harness, but with the first five training questions instead of randomly drawn ones.
Result<Task> load_gsm8k(const TaskData& data) {
  TQ_ASSIGN(const std::vector<JsonLine> train, data.lines("gsm8k-train.jsonl"));
  TQ_ASSIGN(const std::vector<JsonLine> test, data.lines("gsm8k-test.jsonl"));
  std::string shots;
  for (size_t i = 0; i < std::min(kShots, train.size()); ++i) {
    const JsonReader reader(train[i].json, fmt::format("{}/gsm8k-train.jsonl:{}", data.directory, train[i].number));
    TQ_ASSIGN(const std::string question, reader.string("question"));
    TQ_ASSIGN(const std::string answer, reader.string("answer"));
    shots += "Question: " + question + "\nAnswer: " + answer + "\n\n";
  }
  TQ_ASSIGN(Task task, task_of_lines("gsm8k", test, data.directory + "/gsm8k-test.jsonl"));
  if (task.metric != "exact_match") return bad_input("{}/gsm8k-test.jsonl: its lines should have question and answer", data.directory);
  for (Item& item : task.items) item.context = shots + item.context;
  task.description = "5 examples, " + task.description;
  return task;
}

std::string final_number(std::string_view text) {
  const auto is_part = [](char c) { return (c >= '0' && c <= '9') || c == '.' || c == ',' || c == '$'; };
  size_t end = text.size();
  std::string out;
  while (end > 0) {  // the last run that has a digit in it
    while (end > 0 && !is_part(text[end - 1])) --end;
    size_t begin = end;
    while (begin > 0 && is_part(text[begin - 1])) --begin;
    const std::string_view run = text.substr(begin, end - begin);
    if (run.find_first_of("0123456789") != std::string_view::npos) {
      out = begin > 0 && text[begin - 1] == '-' ? "-" : "";
      for (const char c : run)
        if (c != '$' && c != ',') out += c;
      if (out.ends_with('.')) out.pop_back();
      return out;
    }
    end = begin;
  }
  return out;
}

Result<double> check_number(const Item& item, const std::string& generated) { return final_number(generated) == item.answer ? 1.0 : 0.0; }

}  // namespace tq
