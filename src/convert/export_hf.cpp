#include "convert/export_hf.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>

#include "artifact/writer.h"
#include "base/float16.h"
#include "base/output_file.h"
#include "convert/hf_experts.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kShardBytes = uint64_t{4} << 30;
constexpr float kBeyondHalves = 65520;  // rounds to infinity

using Sink = std::function<Status(std::span<const std::byte>)>;

Status write_rows(const std::string& name, const PackedTensor& tensor, int64_t begin, int64_t end, DType dtype, const Sink& sink,
                  const Context& context) {
  const int64_t columns = tensor.columns(), band = std::max<int64_t>(1, (1 << 20) / std::max<int64_t>(1, columns));
  std::vector<float> values(static_cast<size_t>(band * columns));
  std::vector<uint16_t> halves(values.size());
  std::atomic<bool> is_finite = true, is_in_range = true;
  for (int64_t row = begin; row < end; row += band) {
    if (context.stopped()) return fail(ErrorCode::kInterrupted, "stopped; nothing is left of the directory");
    const int64_t count = std::min(band, end - row);
    context.threads.run(count, std::max<int64_t>(1, count / 64), [&](int64_t first, int64_t last, int) {
      decode_rows(tensor, row + first, last - first, values.data() + first * columns);
      if (!std::all_of(values.begin() + first * columns, values.begin() + last * columns, [](float x) { return std::isfinite(x); }))
        is_finite = false;
      if (dtype == DType::kF16 && std::any_of(values.begin() + first * columns, values.begin() + last * columns,
                                              [](float x) { return std::fabs(x) >= kBeyondHalves; }))
        is_in_range = false;
      for (int64_t i = first * columns; i < last * columns; ++i) {
        const auto at = static_cast<size_t>(i);
        halves[at] = dtype == DType::kBF16 ? float_to_bf16(values[at]) : float_to_f16(values[at]);
      }
    });
    if (!is_finite) return bad_input("tensor {} holds values that are no finite numbers; fetch or convert the model again", name);
    if (!is_in_range) return bad_usage("tensor {} holds values beyond the range of f16; take --dtype bf16 or f32", name);
    const auto n = static_cast<size_t>(count * columns);
    TQ_TRY(dtype == DType::kF32 ? sink(std::as_bytes(std::span<const float>(values.data(), n)))
                                : sink(std::as_bytes(std::span<const uint16_t>(halves.data(), n))));
  }
  return {};
}

// A stack of experts is written expert by expert, as transformers names them.
std::vector<PendingArray> arrays_of(const std::string& name, const PackedTensor& tensor, DType dtype, const Context& context) {
  if (tensor.shape.size() != 3)
    return {{{name, dtype, tensor.shape}, [name, &tensor, dtype, &context](const Sink& sink) {
               return write_rows(name, tensor, 0, tensor.rows(), dtype, sink, context);
             }}};
  std::vector<PendingArray> arrays;
  const std::string stack = name.substr(0, name.rfind('.')), kind = name.substr(stack.size());  // ".weight", ".bias"
  const int64_t rows = tensor.shape[1];
  for (int64_t e = 0; e < tensor.shape[0]; ++e)
    arrays.push_back(
        {{expert_name(stack, e) + kind, dtype, {rows, tensor.shape[2]}}, [name, &tensor, dtype, e, rows, &context](const Sink& sink) {
           return write_rows(name, tensor, e * rows, (e + 1) * rows, dtype, sink, context);
         }});
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
  for (const std::string& name : tensor_names(model.spec))
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
