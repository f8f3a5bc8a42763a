#include <algorithm>
#include <filesystem>

#include "base/mapped_file.h"
#include "eval/tasks/task.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

constexpr size_t kColumns = 6;  // question, four choices, the answer's number
constexpr const char* kLetters[] = {"A", "B", "C", "D"};

std::string stripped(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

std::string question_text(const std::vector<std::string>& row) {
  std::string out = stripped(row[0]);
  for (size_t i = 0; i < 4; ++i) out += fmt::format("\n{}. {}", kLetters[i], row[1 + i]);
  return out + "\nAnswer:";
}

Result<std::vector<std::vector<std::string>>> read_rows(const std::string& path) {
  TQ_ASSIGN(const std::string text, read_text_file(path));
  TQ_ASSIGN(auto rows, parse_csv(text, path));
  if (!rows.empty() && rows[0].size() == kColumns && rows[0][5] == "answer") rows.erase(rows.begin());
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i].size() != kColumns || rows[i][5].size() != 1 || rows[i][5][0] < '0' || rows[i][5][0] > '3')
      return bad_input("{}: row {} should have a question, four choices and the number of the answer, 0 to 3", path, i + 1);
  return rows;
}

// What stands before each question of a subject: a sentence and the examples of dev.
Result<std::string> examples(const std::string& directory, const std::string& subject) {
  std::string spoken = subject;
  std::replace(spoken.begin(), spoken.end(), '_', ' ');
  std::string out = fmt::format("The following are multiple choice questions (with answers) about {}.\n\n", spoken);
  TQ_ASSIGN(const auto rows, read_rows(fmt::format("{}/mmlu/dev/{}_dev.csv", directory, subject)));
  for (const auto& row : rows) out += question_text(row) + " " + kLetters[row[5][0] - '0'] + "\n\n";
  return out;
}

}  // namespace

// Hendrycks et al. 2021, with the prompts of lm-evaluation-harness: five examples from dev, the likeliest of " A" to " D".
Result<Task> load_mmlu(const TaskData& data) {
  if (data.directory.empty()) return bad_usage("the task mmlu needs --task-data DIR, the folder that holds mmlu/dev and mmlu/test");
  const std::string folder = data.directory + "/mmlu/test", tail = "_test.csv";
  std::error_code error;
  std::vector<std::string> subjects;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(tail)) subjects.push_back(name.substr(0, name.size() - tail.size()));
  }
  if (subjects.empty()) return bad_input("{}: there are no files SUBJECT_test.csv in it", folder);
  std::sort(subjects.begin(), subjects.end());
  Task task{.name = "mmlu", .description = "5 examples a subject, the likeliest of four letters", .kind = TaskKind::kChoice};
  for (const std::string& subject : subjects) {
    TQ_ASSIGN(const std::string before, examples(data.directory, subject));
    TQ_ASSIGN(const auto rows, read_rows(folder + "/" + subject + tail));
    for (size_t i = 0; i < rows.size(); ++i)
      task.items.push_back({.id = fmt::format("{}/{}", subject, i + 1),
                            .group = subject,
                            .context = before + question_text(rows[i]),
                            .choices = {" A", " B", " C", " D"},
                            .gold = static_cast<size_t>(rows[i][5][0] - '0')});
  }
  return task;
}

}  // namespace tq
