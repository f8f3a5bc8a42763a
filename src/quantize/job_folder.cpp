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
  if (const Effort rounding = options.rounding.value_or(options.effort); rounding != options.effort)
    text += fmt::format("rounded as {}\n", effort_name(rounding));
  text += fmt::format("{} {} {}\n", uses_allocation(options), options.byte_limit, target_name(options.target));
  if (options.card) text += fmt::format("card {} {} {}\n", options.card->memory, options.card->context, options.card->batch);
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
  text += source_facts(model);
  return hex64(hash64(std::as_bytes(std::span<const char>(text))));
}

Status make_directories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be created: {}", path, error.message());
  return {};
}

// found: what the folder says.
Status check_owner(const std::string& path, const std::string& found, const std::string& identity, const std::string& maker) {
  const size_t end = std::min(found.find('\n'), found.size());
  if (found.substr(0, end) != identity)
    return bad_usage("{}: it belongs to a run with another source or other options; remove it or use those", path);
  const std::string by = found.substr(std::min(end + 1, found.size()));
  if (by != maker)
    return bad_usage("{}: begun by {}, not {}, which may round otherwise; continue with that one, or remove it", path, by, maker);
  return {};
}

}  // namespace

std::string source_facts(const Model& model) {
  std::vector<std::string> files = model.source_parts;
  if (files.empty()) files = {model.source};
  std::string text;
  std::error_code error;
  for (const std::string& file : files) text += path_facts(fs::absolute(file, error).string());
  return text;
}

Status check_output(const std::string& directory, bool resume) {
  std::error_code error;
  if (directory.empty()) return bad_usage("the directory to write has no name");
  if (fs::exists(directory, error)) return bad_usage("{}: already exists; choose another name or remove it", directory);
  const std::string path = partial_directory(directory);
  if (resume || !fs::exists(path, error)) return {};
  if (holds_job(path) || fs::is_empty(path, error))
    return bad_usage("{}: an unfinished run is there; continue it with --resume, or remove it", path);
  return bad_usage("{}: something else is there; choose another name, or remove it", path);
}

Result<JobFolder> JobFolder::open(const Model& model, const QuantizePlan& plan, const std::string& directory, bool resume,
                                  const std::string& maker) {
  TQ_TRY(check_output(directory, resume));
  const std::string path = partial_directory(directory);
  TQ_ASSIGN(LockedFile owner, claim_partial(path, kJobFile));
  TQ_ASSIGN(const std::string found, owner.text());
  const std::string identity = job_identity(model, plan);
  if (!found.empty()) TQ_TRY(check_owner(path, found, identity, maker));
  JobFolder folder(path, std::move(owner));
  if (folder.is_complete()) return folder;
  TQ_TRY(make_directories(path + "/" + kJobSteps));
  if (found.empty()) TQ_TRY(folder.owner_.write(identity + "\n" + maker));
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

Result<TensorView> step_array(const safetensors::Archive& step, const std::string& name, DType dtype, int64_t count) {
  const TensorView* view = step.find(name);
  if (view && view->dtype == dtype && view->count() == count) return *view;
  return bad_input("an unfinished run has no {} of {} elements; remove it and begin again", name, count);
}

uint64_t JobFolder::bytes_beside_steps() const {
  uint64_t total = 0;
  std::error_code error, ignored;
  for (auto it = fs::directory_iterator(path_, error); !error && it != fs::directory_iterator(); it.increment(error))
    if (it->is_regular_file(ignored) && it->path().filename() != kJobFile) total += it->file_size(ignored);
  return total;
}

bool JobFolder::is_complete() const {
  std::error_code error;
  return fs::exists(path_ + "/turboquant.json", error) && !fs::exists(path_ + "/" + kJobSteps, error);
}

Status JobFolder::publish(const std::string& directory) {
  std::error_code error;
  if (fs::exists(directory, error))
    return fail(ErrorCode::kFailed, "{}: was made by somebody else meanwhile; remove it, and continue with --resume", directory);
  // Renamed first: a folder with some of its steps would be neither complete nor one to go on from.
  const std::string steps = path_ + "/" + kJobSteps, done = path_ + "/" + kJobDone;
  if (fs::exists(steps, error)) fs::rename(steps, done, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be removed: {}", steps, error.message());
  fs::remove_all(done, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be removed: {}", done, error.message());
  TQ_TRY(owner_.remove());
  return tq::publish(directory);
}

void JobFolder::remove_without_steps() {
  std::error_code ignored;
  if (!fs::remove(path_ + "/" + kJobSteps, ignored)) return;
  if (owner_.remove()) fs::remove(path_, ignored);
}

}  // namespace tq
