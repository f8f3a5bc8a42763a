#include "quantize/job_folder.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/output_file.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

std::string path_facts(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return path + " missing\n";
  return fmt::format("{} {} {} {}\n", path, status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

// What makes two runs the same job: the options, the plan's texts and the source.
std::string job_identity(const Model& model, const QuantizePlan& plan) {
  std::string text;
  for (const auto& [name, content] : plan.texts) text += name + "\n" + content + "\n";
  const QuantizeOptions& options = plan.options;
  text += fmt::format("{} {} {} {} {} {} {} {} {} {} {} {} {} {}\n", method_name(options.method), options.passes, options.group,
                      uses_act_order(options), options.bits, static_cast<int>(options.effort), options.embedding_bits, options.head_bits,
                      calibration_tokens(options), options.sequence, damping_of(options), options.seed, options.shard_bytes,
                      uses_gradients(options));
  text += fmt::format("{} {} {}\n", uses_allocation(options), options.byte_limit, target_name(options.target));
  if (uses_gradients(options)) text += fmt::format("gradients of {}\n", options.gradient_tokens);
  if (uses_calibration(options))
    text += fmt::format("calibrated {} {} {} {} {}\n", options.calibrate_steps, options.calibrate_sequences, options.calibrate_tokens,
                        options.calibrate_weight_rate, options.calibrate_vector_rate);
  if (uses_allocation(options) && options.allocate_tokens > 0) text += fmt::format("allocated {}\n", options.allocate_tokens);
  if (uses_tuning(options)) text += fmt::format("tuned {} {} {}\n", options.tune_steps, options.tune_measures, options.tune_rate);
  for (const auto& [name, bits] : options.rates) text += fmt::format("{} {}\n", name, bits);
  for (const std::string& file : options.calibration) {
    const auto read = MappedFile::open(file);
    text += file + " " + (read ? hex64(hash64((*read)->bytes())) : "missing") + "\n";
  }
  text += source_facts(model.source);
  return hex64(hash64(std::as_bytes(std::span<const char>(text))));
}

Status make_directories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be created: {}", path, error.message());
  return {};
}

}  // namespace

std::string source_facts(const std::string& source) {
  std::error_code error;
  const std::string path = fs::absolute(source, error).string();
  if (!fs::is_directory(path, error)) return path_facts(path);
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(path, error)) files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  std::string text;
  for (const std::string& file : files) text += path_facts(file);
  return text;
}

Result<JobFolder> JobFolder::open(const Model& model, const QuantizePlan& plan, const std::string& directory, bool resume,
                                  const std::string& maker) {
  std::error_code error;
  if (directory.empty()) return bad_usage("the directory to write has no name");
  if (fs::exists(directory, error)) return bad_usage("{}: already exists; choose another name or remove it", directory);
  JobFolder folder(partial_directory(directory));
  const std::string identity = job_identity(model, plan), identity_path = folder.path_ + "/job";
  if (fs::exists(folder.path_, error)) {
    if (!resume) return bad_usage("{}: an unfinished run is there; continue it with --resume, or remove it", folder.path_);
    const std::string job = identity + "\n" + maker;
    const auto found = fs::exists(identity_path, error) ? read_text_file(identity_path, 1024) : Result<std::string>(job);
    if (!found || found->substr(0, found->find('\n')) != identity)
      return bad_usage("{}: it belongs to a run with another source or other options; remove it or use those", folder.path_);
    if (*found != job)
      return bad_usage("{}: begun by {}, not {}, which may round otherwise; continue with that one, or remove it", folder.path_,
                       found->substr(std::min(found->size(), identity.size() + 1)), maker);
  }
  TQ_TRY(make_directories(folder.path_ + "/steps"));
  TQ_TRY(write_file(identity_path, identity + "\n" + maker));
  return folder;
}

bool JobFolder::has_step(const std::string& step) const {
  std::error_code error;
  return fs::is_regular_file(step_path(step), error);
}

Status JobFolder::save_step(const std::string& step, const std::vector<Array>& arrays, const std::map<std::string, std::string>& metadata) {
  std::vector<safetensors::TensorInfo> infos;
  for (const Array& array : arrays) infos.push_back(array.info);
  std::vector<safetensors::TensorInfo> ordered = infos;
  safetensors::order_for_alignment(ordered);
  TQ_ASSIGN(safetensors::Writer writer, safetensors::Writer::create(step_path(step), ordered, metadata));
  for (const auto& info : ordered)
    for (const Array& array : arrays)
      if (array.info.name == info.name) TQ_TRY(writer.append(array.bytes));
  return writer.finish();
}

Result<std::shared_ptr<const safetensors::Archive>> JobFolder::open_step(const std::string& step) const {
  return safetensors::Archive::open_file(step_path(step));
}

uint64_t JobFolder::bytes() const {
  std::error_code error;
  uint64_t total = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path_, error))
    if (entry.is_regular_file(error)) total += entry.file_size(error);
  return total;
}

Status JobFolder::remove_steps() {
  std::error_code error;
  fs::remove_all(path_ + "/steps", error);
  fs::remove(path_ + "/job", error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be removed: {}", path_, error.message());
  return {};
}

}  // namespace tq
