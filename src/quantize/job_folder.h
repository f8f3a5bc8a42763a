// The folder of an unfinished job: finished steps as safetensors files, and what the job is.
#pragma once

#include <map>
#include <string>

#include "quantize/plan.h"
#include "quantize/round.h"

namespace tq {

// The files of a model, or the one file, by path, size and time of change.
std::string source_facts(const std::string& source);

class JobFolder {
 public:
  // Creates DIRECTORY.partial, or opens it with resume. maker: the program and processor that the steps' bytes may depend on, for people to
  // read. Errors: kUsage when the folder belongs to another job or maker, or exists without resume.
  static Result<JobFolder> open(const Model& model, const QuantizePlan& plan, const std::string& directory, bool resume,
                                const std::string& maker);

  const std::string& path() const { return path_; }
  bool has_step(const std::string& step) const;
  // Arrays in memory, written as one file that appears when it is complete. metadata: numbers of the report, by tensor.
  struct Array {
    safetensors::TensorInfo info;
    std::span<const std::byte> bytes;
  };
  Status save_step(const std::string& step, const std::vector<Array>& arrays, const std::map<std::string, std::string>& metadata);
  Result<std::shared_ptr<const safetensors::Archive>> open_step(const std::string& step) const;
  // Removes the steps once their content has been written elsewhere.
  uint64_t bytes() const;  // of all files
  Status remove_steps();

 private:
  explicit JobFolder(std::string path) : path_(std::move(path)) {}
  std::string step_path(const std::string& step) const { return path_ + "/steps/" + step + ".safetensors"; }
  std::string path_;
};

}  // namespace tq
