// Files of tasks of any bytes: packed ones, lines of JSON, tables. Each is refused in one line or gives items that can be asked.
#include <cstdint>

#include "base/check.h"
#include "base/gzip.h"
#include "eval/tasks/task.h"

namespace {

template <typename T>
bool is_sound(const tq::Result<T>& result) {
  return result || result.error().message.find('\n') == std::string::npos;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  TQ_CHECK(is_sound(tq::gunzip(std::as_bytes(std::span(data, size)), "f.gz", 1 << 20)));
  TQ_CHECK(is_sound(tq::parse_csv(text, "f.csv")));
  const auto lines = tq::json_lines(text, "f.jsonl");
  TQ_CHECK(is_sound(lines));
  if (!lines) return 0;
  const auto task = tq::task_of_lines("f", *lines, "f.jsonl");
  TQ_CHECK(is_sound(task));
  if (!task) return 0;
  for (const tq::Item& item : task->items) {
    TQ_CHECK(task->kind != tq::TaskKind::kChoice || item.gold < item.options());
    TQ_CHECK(task->kind == tq::TaskKind::kGeneration || !item.choices.empty());
  }
  return 0;
}
