#include "convert/export_hf.h"

#include <filesystem>

#include "artifact/writer.h"
#include "base/output_file.h"
#include "codec/elements.h"
#include "convert/hf_experts.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kShardBytes = uint64_t{4} << 30;

using Sink = std::function<Status(std::span<const std::byte>)>;

// rows: their name and tensor live on.
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
std::vector<PendingArray> arrays_of(const std::string& name, const PackedTensor& tensor, DType dtype, const Context& context) {
  if (tensor.shape.size() != 3) return {converted(name, tensor.shape, {name, tensor, 0, tensor.rows(), dtype}, context)};
  std::vector<PendingArray> arrays;
  const std::string stack = name.substr(0, name.rfind('.')), kind = name.substr(stack.size());  // ".weight", ".bias"
  const int64_t rows = tensor.shape[1];
  for (int64_t e = 0; e < tensor.shape[0]; ++e)
    arrays.push_back(
        converted(expert_name(stack, e) + kind, {rows, tensor.shape[2]}, {name, tensor, e * rows, (e + 1) * rows, dtype}, context));
  return arrays;
}

std::string config_text(const Model& model, DType dtype) {
  Json config = model.config;
  config.erase("quantization_config");
  config["torch_dtype"] = dtype == DType::kBF16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
  if (config.contains("dtype")) config["dtype"] = config["torch_dtype"];  // the newer name, which counts where both are
  return config.dump(2) + "\n";
}

}  // namespace

Status export_hf(const Model& model, DType dtype, const std::string& directory, const Context& context) {
  std::error_code error;
  if (directory.empty()) return bad_usage("the directory to write has no name");
  if (fs::exists(directory, error)) return bad_usage("{}: already exists; choose another name or remove it", directory);
  const std::string partial = partial_directory(directory);
  if (holds_job(partial))
    return bad_usage("{}: a run of tq quantize is there, which --resume continues; choose another name, or remove it", partial);
  fs::remove_all(partial, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be removed: {}", partial, error.message());
  fs::create_directories(partial, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be created: {}", partial, error.message());
  std::vector<PendingArray> arrays;
  const std::vector<std::string> names = tensor_names(model.spec);
  for (const std::string& name : names)
    for (PendingArray& array : arrays_of(name, *model.find(name), dtype, context)) arrays.push_back(std::move(array));
  uint64_t bytes = 0;
  for (const PendingArray& array : arrays) bytes += static_cast<uint64_t>(element_count(array.info.shape)) * dtype_size(array.info.dtype);
  const auto count = static_cast<int64_t>(arrays.size());
  int64_t done = 0;
  for (PendingArray& array : arrays)
    array.write = [write = std::move(array.write), &done, count, &context](const Sink& sink) -> Status {
      TQ_TRY(write(sink));
      context.listener.progress("tensors", ++done, count);
      return {};
    };
  const auto write_all = [&]() -> Status {
    TQ_TRY(check_free_space(partial, bytes));
    TQ_TRY(write_shards(partial, plan_shards(std::move(arrays), kShardBytes)));
    for (const CarriedFile& file : model.files) TQ_TRY(write_file(partial + "/" + file.name, file.text));
    TQ_TRY(write_file(partial + "/config.json", config_text(model, dtype)));
    return publish(directory);
  };
  const Status status = write_all();
  if (!status) fs::remove_all(partial, error);
  return status;
}

}  // namespace tq
