#include "eval/tasks/task.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/gzip.h"
#include "base/mapped_file.h"

namespace tq {

#define TQ_TASK(name, help) Result<Task> load_##name(const TaskData& data);
#include "eval/tasks/tasks.def"
#undef TQ_TASK

namespace {

constexpr size_t kLargestFile = size_t{1} << 30;

// "a" and "b" with a space between, unless there is one.
std::string spaced(std::string_view before, std::string_view text) {
  const bool is_spaced = before.empty() || before.back() == ' ' || before.back() == '\n' || text.starts_with(' ') || text.starts_with('\n');
  return (is_spaced ? "" : " ") + std::string(text);
}

Result<std::string> filled(const JsonReader& line, const char* key) {
  TQ_ASSIGN(std::string text, line.string(key));
  if (text.empty()) return bad_input("{}: '{}' is empty", line.where(), key);
  return text;
}

Result<std::vector<std::string>> strings(const Json& line, const char* key, const std::string& where) {
  const auto found = line.find(key);
  std::vector<std::string> out;
  if (found != line.end() && found->is_array())
    for (const Json& each : *found)
      if (each.is_string()) out.push_back(each.get<std::string>());
  if (out.size() < 2 || out.size() != found->size()) return bad_input("{}: '{}' should be a list of at least two texts", where, key);
  return out;
}

Result<Item> choice_item(const Json& line, const std::string& where) {
  const JsonReader reader(line, where);
  Item item;
  TQ_ASSIGN(item.context, filled(reader, "query"));
  TQ_ASSIGN(const std::vector<std::string> choices, strings(line, "choices", where));
  for (const std::string& choice : choices) {
    if (choice.empty()) return bad_input("{}: one of 'choices' is empty", where);
    item.choices.push_back(spaced(item.context, choice));
  }
  TQ_ASSIGN(const int64_t gold, reader.integer("gold", 0, static_cast<int64_t>(choices.size()) - 1));
  item.gold = static_cast<size_t>(gold);
  return item;
}

Result<Item> contexts_item(const Json& line, const std::string& where) {
  const JsonReader reader(line, where);
  Item item;
  TQ_ASSIGN(item.contexts, strings(line, "context_options", where));
  TQ_ASSIGN(const std::string continuation, filled(reader, "continuation"));
  item.choices = {spaced(item.contexts[0], continuation)};
  TQ_ASSIGN(const int64_t gold, reader.integer("gold", 0, static_cast<int64_t>(item.contexts.size()) - 1));
  item.gold = static_cast<size_t>(gold);
  return item;
}

Result<Item> continuation_item(const Json& line, const std::string& where) {
  const JsonReader reader(line, where);
  Item item;
  TQ_ASSIGN(item.context, reader.string("context"));
  TQ_ASSIGN(const std::string continuation, filled(reader, "continuation"));
  item.choices = {spaced(item.context, continuation)};
  return item;
}

Result<Item> question_item(const Json& line, const std::string& where) {
  const JsonReader reader(line, where);
  Item item;
  TQ_ASSIGN(const std::string question, reader.string("question"));
  TQ_ASSIGN(item.answer, reader.string("answer"));
  item.context = "Question: " + question + "\nAnswer:";
  item.answer = final_number(item.answer);
  if (item.answer.empty()) return bad_input("{}: 'answer' has no number in it", where);
  return item;
}

Result<Item> program_item(const Json& line, const std::string& where) {
  const JsonReader reader(line, where);
  Item item;
  TQ_ASSIGN(item.context, filled(reader, "prompt"));
  TQ_ASSIGN(item.answer, filled(reader, "test"));
  TQ_ASSIGN(item.name, filled(reader, "entry_point"));
  TQ_ASSIGN(const std::string solution, reader.string_or("canonical_solution", ""));
  if (!solution.empty()) item.choices = {solution};
  TQ_ASSIGN(item.id, reader.string_or("task_id", ""));
  return item;
}

struct LineShape {
  std::array<const char*, 3> keys;  // that a line of it has
  Result<Item> (*read)(const Json&, const std::string&);
  Task task;  // without name and items
};

const std::vector<LineShape>& line_shapes() {
  static const std::vector<LineShape> kShapes = {
      {{"query", "choices", "gold"},
       choice_item,
       {.description = "the likeliest choice; acc_bytes: by log-likelihood a byte", .kind = TaskKind::kChoice, .by_bytes = true}},
      {{"context_options", "continuation", "gold"},
       contexts_item,
       {.description = "the context after which the continuation is likeliest", .kind = TaskKind::kChoice}},
      {{"context", "continuation", "continuation"},
       continuation_item,
       {.description = "log-likelihood of the continuation; acc: greedy decoding gives it", .kind = TaskKind::kContinuation}},
      {{"question", "answer", "answer"},
       question_item,
       {.description = "greedy text, its final number",
        .kind = TaskKind::kGeneration,
        .metric = "exact_match",
        .stop = {"Question:", "</s>", "<|im_end|>"},
        .max_tokens = 256,
        .check = check_number}},
      {{"prompt", "test", "entry_point"},
       program_item,
       {.description = "programs that pass their tests; canonical_loss_per_byte: of the model solution, in nats",
        .kind = TaskKind::kGeneration,
        .metric = "pass@1",
        .stop = {"\nclass", "\ndef", "\n#", "\nif", "\nprint"},
        .max_tokens = 1024,
        .check = check_program,
        .is_isolated = programs_are_isolated}},
  };
  return kShapes;
}

// Errors: kBadInput for a path that cannot be followed.
Result<bool> is_there(const std::string& path) {
  std::error_code error;
  const bool found = std::filesystem::exists(path, error);
  if (error) return bad_input("{}: cannot be examined ({})", path, error.message());
  return found;
}

bool has_keys(const Json& line, const LineShape& shape) {
  return std::all_of(shape.keys.begin(), shape.keys.end(), [&](const char* key) { return line.contains(key); });
}

}  // namespace

Result<std::string> TaskData::text(std::string_view name) const {
  if (directory.empty()) return bad_usage("this task needs --task-data DIR, the folder that holds {}", name);
  const std::string path = fmt::format("{}/{}", directory, name);
  TQ_ASSIGN(const bool is_plain, is_there(path));
  if (is_plain) return read_text_file(path, kLargestFile);
  const std::string packed = path + ".gz";
  TQ_ASSIGN(const bool is_packed, is_there(packed));
  if (!is_packed) return bad_input("{}: no such file, packed or not; --task-data should name the folder of it", path);
  TQ_ASSIGN(const auto mapped, MappedFile::open(packed));
  return gunzip(mapped->bytes(), packed, kLargestFile);
}

Result<std::vector<JsonLine>> TaskData::lines(std::string_view name) const {
  TQ_ASSIGN(const std::string all, text(name));
  return json_lines(all, fmt::format("{}/{}", directory, name));
}

Result<std::vector<JsonLine>> json_lines(std::string_view text, const std::string& where) {
  std::vector<JsonLine> out;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    TQ_ASSIGN(Json json, parse_json(line, fmt::format("{}:{}", where, number)));
    if (!json.is_object()) return bad_input("{}:{}: a line should be a JSON object", where, number);
    out.push_back({std::move(json), number});
  }
  if (out.empty()) return bad_input("{}: there is not one line in it", where);
  return out;
}

Result<Task> task_of_lines(const std::string& name, const std::vector<JsonLine>& lines, const std::string& where) {
  const std::vector<LineShape>& shapes = line_shapes();
  const auto shape = std::find_if(shapes.begin(), shapes.end(), [&](const LineShape& each) { return has_keys(lines[0].json, each); });
  if (shape == shapes.end())
    return bad_input(
        "{}: lines of no known shape; give query, choices, gold | context_options, continuation, gold | context, continuation | question, "
        "answer | prompt, test, entry_point",
        where);
  Task task = shape->task;
  task.name = name;
  for (size_t i = 0; i < lines.size(); ++i) {
    TQ_ASSIGN(Item item, shape->read(lines[i].json, fmt::format("{}:{}", where, lines[i].number)));
    if (item.id.empty()) item.id = std::to_string(i + 1);
    task.items.push_back(std::move(item));
  }
  return task;
}

std::span<const TaskEntry> known_tasks() {
  static constexpr TaskEntry kTasks[] = {
#define TQ_TASK(name, help) {#name, help, load_##name},
#include "eval/tasks/tasks.def"
#undef TQ_TASK
  };
  return kTasks;
}

Result<Task> load_task(const std::string& name, const TaskData& data) {
  for (const TaskEntry& entry : known_tasks())
    if (entry.name == name) return entry.load(data);
  if (!name.ends_with(".jsonl")) {
    std::string names;
    for (const TaskEntry& entry : known_tasks()) names += fmt::format(", {}", entry.name);
    return bad_usage("--tasks {}: there are kl, ppl{}, and files NAME.jsonl", name, names);
  }
  TQ_ASSIGN(const std::string text, read_text_file(name, kLargestFile));
  TQ_ASSIGN(const std::vector<JsonLine> lines, json_lines(text, name));
  return task_of_lines(std::filesystem::path(name).stem().string(), lines, name);
}

}  // namespace tq
