#include "eval/tasks/task.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

namespace tq {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Result<Task> task_of(const std::string& text) {
  const auto lines = json_lines(text, "t.jsonl");
  if (!lines) return Unexpected(lines.error());
  return task_of_lines("t", *lines, "t.jsonl");
}

// A folder of task files, removed at the end.
class TaskFiles : public testing::Test {
 protected:
  TaskFiles() { std::filesystem::create_directories(folder_); }
  ~TaskFiles() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << text;
  }
  std::filesystem::path folder_ = std::filesystem::path(testing::TempDir()) /
                                  ("tq-tasks-" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
  TaskData data_{folder_.string()};
};

TEST(TaskOfLines, ReadsEveryShape) {
  const auto choice = task_of(R"({"query": "Q:", "choices": ["a", " b"], "gold": 1})");
  ASSERT_TRUE(choice.has_value()) << choice.error().message;
  EXPECT_EQ(choice->kind, TaskKind::kChoice);
  EXPECT_THAT(choice->items[0].choices, ElementsAre(" a", " b"));
  const auto contexts = task_of(R"({"context_options": ["x", "y"], "continuation": "z", "gold": 0})");
  ASSERT_TRUE(contexts.has_value()) << contexts.error().message;
  EXPECT_EQ(contexts->items[0].options(), 2u);
  EXPECT_THAT(contexts->items[0].choices, ElementsAre(" z"));
  const auto continuation = task_of(R"({"context": "x\n", "continuation": "z"})");
  ASSERT_TRUE(continuation.has_value()) << continuation.error().message;
  EXPECT_EQ(continuation->kind, TaskKind::kContinuation);
  EXPECT_THAT(continuation->items[0].choices, ElementsAre("z"));
  const auto question = task_of(R"({"question": "1+1?", "answer": "two\n#### 2"})");
  ASSERT_TRUE(question.has_value()) << question.error().message;
  EXPECT_EQ(question->items[0].answer, "2");
  const auto program = task_of(R"({"prompt": "def f():\n", "test": "def check(f): pass", "entry_point": "f", "task_id": "H/1"})");
  ASSERT_TRUE(program.has_value()) << program.error().message;
  EXPECT_EQ(program->items[0].id, "H/1");
}

TEST(TaskOfLines, NamesTheLineThatIsWrong) {
  EXPECT_THAT(task_of(R"({"what": 1})").error().message, HasSubstr("t.jsonl"));
  const std::string good = R"({"query": "Q", "choices": ["a", "b"], "gold": 0})",
                    bad = R"({"query": "Q", "choices": ["a", "b"], "gold": 2})";
  EXPECT_THAT(task_of(good + "\n" + bad).error().message, HasSubstr("t.jsonl:2"));
  EXPECT_THAT(task_of(R"({"query": "Q", "choices": ["a"], "gold": 0})").error().message, HasSubstr("choices"));
  EXPECT_THAT(task_of("nonsense").error().message, HasSubstr("t.jsonl:1"));
  EXPECT_FALSE(task_of("\n\n").has_value());
}

// Nothing is as likely as can be, whatever the model.
TEST(TaskOfLines, RefusesTextsThatAreEmpty) {
  const std::string good = R"({"query": "Q", "choices": ["a", "b"], "gold": 0})";
  EXPECT_THAT(task_of(good + "\n" + R"({"query": "Q", "choices": [" blue", ""], "gold": 0})").error().message,
              HasSubstr("t.jsonl:2: one of 'choices' is empty"));
  for (const auto& [line, key] : {std::pair(R"({"query": "", "choices": ["a", "b"], "gold": 0})", "query"),
                                  {R"({"context_options": ["x", "y"], "continuation": "", "gold": 0})", "continuation"},
                                  {R"({"context": "", "continuation": ""})", "continuation"},
                                  {R"({"prompt": "", "test": "t", "entry_point": "f"})", "prompt"},
                                  {R"({"prompt": "p", "test": "", "entry_point": "f"})", "test"},
                                  {R"({"prompt": "p", "test": "t", "entry_point": ""})", "entry_point"}}) {
    const auto refused = task_of(line);
    ASSERT_FALSE(refused.has_value()) << line;
    EXPECT_EQ(refused.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(refused.error().message, "t.jsonl:1: '" + std::string(key) + "' is empty");
  }
  EXPECT_TRUE(task_of(R"({"context": "", "continuation": "z"})").has_value());
}

TEST(FinalNumber, IsComparedWithoutSigns) {
  EXPECT_EQ(final_number("He pays $1,234.50 in 3 days, so $18."), "18");
  EXPECT_EQ(final_number("#### 1,000"), "1000");
  EXPECT_EQ(final_number("it is -5"), "-5");
  EXPECT_EQ(final_number("about 2.5, ... $."), "2.5");
  EXPECT_EQ(final_number("none"), "");
}

TEST(Csv, QuotesHoldCommasQuotesAndLines) {
  const auto rows = parse_csv("a,\"b,\"\"c\"\"\nd\",e\r\nf,,\n", "t.csv");
  ASSERT_TRUE(rows.has_value());
  EXPECT_THAT(*rows, ElementsAre(ElementsAre("a", "b,\"c\"\nd", "e"), ElementsAre("f", "", "")));
  EXPECT_FALSE(parse_csv("a,\"b", "t.csv").has_value());
}

TEST_F(TaskFiles, MmluHasTheExamplesOfItsSubjectInFront) {
  write("mmlu/dev/high_art_dev.csv", "question,choice0,choice1,choice2,choice3,answer\nD? ,w,x,y,z,2\n");
  write("mmlu/test/high_art_test.csv", "question,choice0,choice1,choice2,choice3,answer\nT?,1,2,3,4,3\n");
  const auto task = load_task("mmlu", data_);
  ASSERT_TRUE(task.has_value()) << task.error().message;
  ASSERT_EQ(task->items.size(), 1u);
  EXPECT_EQ(task->items[0].context,
            "The following are multiple choice questions (with answers) about high art.\n\n"
            "D?\nA. w\nB. x\nC. y\nD. z\nAnswer: C\n\nT?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:");
  EXPECT_EQ(task->items[0].gold, 3u);
}

TEST_F(TaskFiles, Gsm8kHasFiveExamplesInFront) {
  std::string train;
  for (int i = 0; i < 6; ++i) train += "{\"question\": \"q" + std::to_string(i) + "\", \"answer\": \"#### 1\"}\n";
  write("gsm8k-train.jsonl", train);
  write("gsm8k-test.jsonl", "{\"question\": \"mine\", \"answer\": \"so\\n#### 7\"}\n");
  const auto task = load_task("gsm8k", data_);
  ASSERT_TRUE(task.has_value()) << task.error().message;
  const std::string& context = task->items[0].context;
  EXPECT_THAT(context, testing::StartsWith("Question: q0\nAnswer: #### 1\n\nQuestion: q1"));
  EXPECT_THAT(context, testing::EndsWith("Question: q4\nAnswer: #### 1\n\nQuestion: mine\nAnswer:"));
  EXPECT_EQ(task->check(task->items[0], " I think 3, no 7.").value(), 1.0);
  EXPECT_EQ(task->check(task->items[0], " I think 7, no 3.").value(), 0.0);
}

TEST_F(TaskFiles, APathThatCannotBeFollowedIsNamed) {
  std::filesystem::create_symlink("gsm8k-test.jsonl", folder_ / "gsm8k-test.jsonl");
  const auto text = data_.text("gsm8k-test.jsonl");
  ASSERT_FALSE(text.has_value());
  EXPECT_EQ(text.error().code, ErrorCode::kBadInput);
  EXPECT_THAT(text.error().message, HasSubstr("gsm8k-test.jsonl: cannot be examined"));
}

TEST_F(TaskFiles, MissingFilesAndNamesAreErrorsThatHelp) {
  EXPECT_EQ(load_task("mmlu", {}).error().code, ErrorCode::kUsage);
  EXPECT_THAT(load_task("winogrande", data_).error().message, HasSubstr("winogrande.jsonl"));
  EXPECT_THAT(load_task("mumlu", data_).error().message, HasSubstr("arc_easy"));
}

}  // namespace
}  // namespace tq
