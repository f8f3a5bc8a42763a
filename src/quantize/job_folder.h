// The folder of an unfinished job: finished steps as safetensors files, and what the job is.
#pragma once

#include <map>
#include <string>

#include "base/locked_file.h"
#include "quantize/plan.h"
#include "quantize/round.h"

namespace tq {

// The files that a model was read from, by path, size and time of change. What else is in its directory does not count.
std::string source_facts(const Model& model);

// Whether a job may write there. Errors: kUsage when the directory exists, or, without resume, DIRECTORY.partial.
Status check_output(const std::string& directory, bool resume);

class JobFolder {
 public:
  // Creates DIRECTORY.partial, or opens it with resume, for this process alone. maker: the program and processor that the steps' bytes may
  // depend on, for people to read. Errors: kUsage when the folder belongs to another job or maker, has anything and does not say to which
  // it belongs, or exists without resume; kFailed when another process is at work on it.
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
  uint64_t bytes_beside_steps() const;  // of the artifact's files that are there
  // Whether a run that was killed while it published left the whole artifact, which only its name is missing.
  bool is_complete() const;
  // Gives the artifact its name, once it is complete: without the steps, and last without what says whose job it was.
  Status publish(const std::string& directory);
  // Removes what a job has made of the folder that has no steps, which are all that --resume could go on from, and the folder itself,
  // unless somebody else's files are in it.
  void remove_without_steps();

 private:
  JobFolder(std::string path, LockedFile owner) : path_(std::move(path)), owner_(std::move(owner)) {}
  std::string step_path(const std::string& step) const { return path_ + "/" + kJobSteps + "/" + step + ".safetensors"; }
  std::string path_;
  LockedFile owner_;  // the job's identity, and who made it
};

// An array of a finished step. Errors: kBadInput where it has none of this name, type and number of elements.
Result<TensorView> step_array(const safetensors::Archive& step, const std::string& name, DType dtype, int64_t count);

}  // namespace tq
