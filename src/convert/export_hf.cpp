#include "convert/export_hf.h"

#include <filesystem>
#include <sstream>

#include "artifact/format.h"
#include "artifact/writer.h"
#include "base/output_file.h"
#include "codec/elements.h"
#include "convert/hf_experts.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kShardBytes = uint64_t{4} << 30;

using Sink = std::function<Status(std::span<const std::byte>)>;

// rows: their name, tensor and source live on.
PendingArray converted(const std::string& name, Shape shape, const ElementRows& rows, const Context& context) {
  return {{name, rows.dtype, std::move(shape)}, [rows, &context](const Sink& sink) {
            const auto checked = [&](std::span<const std::byte> band) -> Status {
              if (context.stopped()) return fail(ErrorCode::kInterrupted, "stopped; nothing is left of the directory");
              return sink(band);
            };
            return write_elements(rows, checked, &context.threads);
          }};
}

// A stack of experts is written expert by expert, as transformers names them.
std::vector<PendingArray> arrays_of(const Model& model, const std::string& name, DType dtype, const Context& context) {
  const auto& [known, tensor] = *model.tensors.find(name);
  if (tensor.shape.size() != 3) return {converted(name, tensor.shape, {known, tensor, 0, tensor.rows(), dtype, model.source}, context)};
  std::vector<PendingArray> arrays;
  const std::string stack = name.substr(0, name.rfind('.')), kind = name.substr(stack.size());  // ".weight", ".bias"
  const int64_t rows = tensor.shape[1];
  for (int64_t e = 0; e < tensor.shape[0]; ++e)
    arrays.push_back(converted(expert_name(stack, e) + kind, {rows, tensor.shape[2]},
                               {known, tensor, e * rows, (e + 1) * rows, dtype, model.source}, context));
  return arrays;
}

std::string config_text(const Model& model, DType dtype) {
  Json config = model.config;
  config.erase("quantization_config");
  config["torch_dtype"] = dtype == DType::kBF16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
  if (config.contains("dtype")) config["dtype"] = config["torch_dtype"];  // the newer name, which counts where both are
  return config.dump(2) + "\n";
}

// DIR.partial of an export. A file in it lists what is written there, so that no more than that is ever removed.
class ExportFolder {
 public:
  // What a killed export has listed is removed. Errors: kUsage when anything else is there; kFailed when another process has it.
  static Result<ExportFolder> open(const std::string& path) {
    if (holds_job(path))
      return bad_usage("{}: a run of tq quantize is there, which --resume continues; choose another name, or remove it", path);
    TQ_ASSIGN(LockedFile list, claim_partial(path, kList));
    TQ_ASSIGN(const std::string text, list.text());
    ExportFolder folder(path, std::move(list));
    const bool is_ours = text.empty() || text.starts_with(kFirstLine);
    if (is_ours) folder.remove_files(names_in(text));
    if (!is_ours || !is_vacant(path, kList)) return bad_usage("{}: something else is there; choose another name, or remove it", path);
    return folder;
  }

  // names: of all files to come.
  Status announce(std::vector<std::string> names) {
    names_ = std::move(names);
    std::string text(kFirstLine);
    for (const std::string& name : names_) text += "\n" + name;
    return list_.write(text);
  }
  Status publish(const std::string& directory) {
    TQ_TRY(list_.remove());
    return tq::publish(directory);
  }
  // What was announced, and the folder unless there is more.
  void remove() {
    remove_files(names_);
    std::error_code ignored;
    fs::remove(path_ + "/" + kList, ignored);
    fs::remove(path_, ignored);
  }

 private:
  static constexpr const char* kList = "convert";
  static constexpr std::string_view kFirstLine = "files of tq convert";

  ExportFolder(std::string path, LockedFile list) : path_(std::move(path)), list_(std::move(list)) {}

  static std::vector<std::string> names_in(const std::string& text) {
    std::istringstream lines(text);
    std::vector<std::string> names;
    std::string line;
    std::getline(lines, line);  // the first
    while (std::getline(lines, line))
      if (line.find('/') == std::string::npos) names.push_back(line);
    return names;
  }
  void remove_files(const std::vector<std::string>& names) const {
    std::error_code ignored;
    for (const std::string& name : names)
      for (const char* unfinished : {"", ".part"}) fs::remove(path_ + "/" + name + unfinished, ignored);
  }

  std::string path_;
  LockedFile list_;
  std::vector<std::string> names_;
};

std::vector<PendingArray> all_arrays(const Model& model, DType dtype, const Context& context) {
  std::vector<PendingArray> arrays;
  for (const std::string& name : tensor_names(model.spec))
    for (PendingArray& array : arrays_of(model, name, dtype, context)) arrays.push_back(std::move(array));
  return arrays;
}

// Each tells the listener when it is written. done: how many are; lives on.
void report_progress(std::vector<PendingArray>& arrays, int64_t& done, const Context& context) {
  const auto count = static_cast<int64_t>(arrays.size());
  for (PendingArray& array : arrays)
    array.write = [write = std::move(array.write), &done, count, &context](const Sink& sink) -> Status {
      TQ_TRY(write(sink));
      context.listener.progress("tensors", ++done, count);
      return {};
    };
}

std::vector<std::string> file_names(const Model& model, const ShardPlan& shards) {
  std::vector<std::string> names = {"config.json", "model.safetensors.index.json"};
  for (size_t i = 0; i < shards.size(); ++i) names.push_back(shard_name(i, shards.size()));
  for (const CarriedFile& file : model.files) names.push_back(file.name);
  return names;
}

}  // namespace

Status export_hf(const Model& model, DType dtype, const std::string& directory, const Context& context) {
  std::error_code error;
  if (directory.empty()) return bad_usage("the directory to write has no name");
  if (fs::exists(directory, error)) return bad_usage("{}: already exists; choose another name or remove it", directory);
  const std::string partial = partial_directory(directory);
  TQ_ASSIGN(ExportFolder folder, ExportFolder::open(partial));
  std::vector<PendingArray> arrays = all_arrays(model, dtype, context);
  int64_t done = 0;
  report_progress(arrays, done, context);
  const ShardPlan shards = plan_shards(std::move(arrays), kShardBytes);
  const auto write_all = [&]() -> Status {
    TQ_TRY(check_free_space(partial, shards_size(shards)));
    TQ_TRY(folder.announce(file_names(model, shards)));
    TQ_TRY(write_shards(partial, shards));
    for (const CarriedFile& file : model.files) TQ_TRY(write_file(partial + "/" + file.name, file.text));
    TQ_TRY(write_file(partial + "/config.json", config_text(model, dtype)));
    return folder.publish(directory);
  };
  Status status = write_all();
  if (!status) folder.remove();
  return status;
}

}  // namespace tq
