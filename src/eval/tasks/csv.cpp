#include <utility>

#include "eval/tasks/task.h"

namespace tq {

Result<std::vector<std::vector<std::string>>> parse_csv(std::string_view text, const std::string& where) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> row;
  std::string field;
  bool in_quotes = false, was_quoted = false;
  const auto end_field = [&] { row.push_back(std::exchange(field, "")), was_quoted = false; };
  const auto end_row = [&] {
    end_field();
    if (row.size() > 1 || !row[0].empty()) rows.push_back(std::move(row));
    row.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_quotes) {
      if (c != '"') field += c;
      else if (i + 1 < text.size() && text[i + 1] == '"') field += '"', ++i;
      else in_quotes = false;
    } else if (c == '"' && field.empty() && !was_quoted) {
      in_quotes = was_quoted = true;
    } else if (c == ',') {
      end_field();
    } else if (c == '\n') {
      end_row();
    } else if (c != '\r') {
      field += c;
    }
  }
  if (in_quotes) return bad_input("{}: a quote is not closed; the file is incomplete", where);
  if (!field.empty() || !row.empty()) end_row();
  return rows;
}

}  // namespace tq
