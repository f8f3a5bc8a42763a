// Writes model directories: artifacts, and plain Hugging Face ones.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "artifact/model.h"
#include "base/locked_file.h"
#include "io/safetensors.h"

namespace tq {

// An array for a safetensors file whose bytes come when they are needed.
struct PendingArray {
  safetensors::TensorInfo info;
  std::function<Status(const std::function<Status(std::span<const std::byte>)>& sink)> write;  // calls sink with pieces, in order
};

PendingArray pending(std::string name, TensorView view, std::shared_ptr<const void> owner);

// Arrays in files of at most shard_bytes each (a larger array stands alone).
using ShardPlan = std::vector<std::vector<PendingArray>>;
ShardPlan plan_shards(std::vector<PendingArray> arrays, uint64_t shard_bytes);

// Sizes of the weight files and their index as write_shards will write them.
uint64_t shards_size(const ShardPlan& plan);
// Writes the files (and the index, if there are several). Returns the hash of every file by name.
Result<std::map<std::string, std::string>> write_shards(const std::string& directory, const ShardPlan& plan);

// The directory that becomes `final` only when everything in it is complete: DIR.partial, renamed by publish().
std::string partial_directory(const std::string& final_directory);
Status publish(const std::string& final_directory);

// Takes DIR.partial, which need not exist, for this process alone: by its marker, a file that says whose work the folder is, empty where it
// has been made just now. Errors: kUsage when the folder has anything and no such marker, so that it is somebody else's; it stays as it is.
// kFailed when another process has it.
Result<LockedFile> claim_partial(const std::string& partial, const std::string& marker);
// Whether DIR.partial has nothing but its marker and empty folders.
bool is_vacant(const std::string& partial, const std::string& marker);

// Of a quantization's DIR.partial: what the job is, and its finished steps (quantize/job_folder.h).
constexpr const char* kJobFile = "job";
constexpr const char* kJobSteps = "steps";
constexpr const char* kJobDone = "steps-done";  // the same, once the artifact is complete; to be removed
// Whether DIR.partial is the work of a quantization, unfinished or complete but for its name.
bool holds_job(const std::string& partial);

}  // namespace tq
