// Results of texts and tasks as files, so that what was measured once need not be measured again.
#pragma once

#include <optional>
#include <string>

#include "eval/divergence.h"
#include "eval/tasks/run.h"

namespace tq::cli {

class KeptResults {
 public:
  // Files in `folder`, which is made when the first is kept. setting: what all results depend on, such as the program.
  KeptResults(std::string folder, std::string setting) : folder_(std::move(folder)), setting_(std::move(setting)) {}

  // name: of the model, of the text or task; identity: of everything that the result depends on beside the setting. A file that is missing
  // or cannot be read is no result.
  struct Key {
    std::string model, name, identity;
  };
  std::optional<TextResult> text(const Key& key) const;
  std::optional<TaskResult> task(const Key& key) const;
  Status keep(const Key& key, const TextResult& result) const;
  Status keep(const Key& key, const TaskResult& result) const;
  // The first windows of a text whose measurement was interrupted; none: no positions.
  Positions first_windows(const Key& key) const;
  Status keep_first(const Key& key, const Positions& positions) const;
  void forget_first(const Key& key) const;

 private:
  std::string path(const Key& key, const char* end) const;
  Status make_folder(const Key& key) const;
  std::string folder_, setting_;
};

}  // namespace tq::cli
