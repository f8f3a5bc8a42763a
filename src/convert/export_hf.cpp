#include "convert/export_hf.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>

#include "artifact/writer.h"
#include "base/float16.h"
#include "base/output_file.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kShardBytes = uint64_t{4} << 30;

using Sink = std::function<Status(std::span<const std::byte>)>;

Status write_rows(const std::string& name, const PackedTensor& tensor, int64_t begin, int64_t end, DType dtype, const Sink& sink,
                  ThreadPool& threads) {
  const int64_t columns = tensor.columns(), band = std::max<int64_t>(1, (1 << 20) / std::max<int64_t>(1, columns));
  std::vector<float> values(static_cast<size_t>(band * columns));
  std::vector<uint16_t> halves(values.size());
  std::atomic<bool> is_finite = true;
  for (int64_t row = begin; row < end; row += band) {
    const int64_t count = std::min(band, end - row);
    threads.run(count, std::max<int64_t>(1, count / 64), [&](int64_t first, int64_t last, int) {
      decode_rows(tensor, row + first, last - first, values.data() + first * columns);
      if (!std::all_of(values.begin() + first * columns, values.begin() + last * columns, [](float x) { return std::isfinite(x); }))
        is_finite = false;
      for (int64_t i = first * columns; i < last * columns; ++i) {
        const auto at = static_cast<size_t>(i);
        halves[at] = dtype == DType::kBF16 ? float_to_bf16(values[at]) : float_to_f16(values[at]);
      }
    });
    if (!is_finite) return bad_input("tensor {} holds values that are no finite numbers; fetch or convert the model again", name);
    const auto n = static_cast<size_t>(count * columns);
    TQ_TRY(dtype == DType::kF32 ? sink(std::as_bytes(std::span<const float>(values.data(), n)))
                                : sink(std::as_bytes(std::span<const uint16_t>(halves.data(), n))));
  }
  return {};
}

// A stack of experts is written expert by expert, as transformers names them.
std::vector<PendingArray> arrays_of(const std::string& name, const PackedTensor& tensor, DType dtype, ThreadPool& threads) {
  if (tensor.shape.size() != 3)
    return {{{name, dtype, tensor.shape}, [name, &tensor, dtype, &threads](const Sink& sink) {
               return write_rows(name, tensor, 0, tensor.rows(), dtype, sink, threads);
             }}};
  std::vector<PendingArray> arrays;
  const std::string stem = name.substr(0, name.find(".experts.") + 9), rest = name.substr(stem.size());
  const int64_t rows = tensor.shape[1];
  for (int64_t e = 0; e < tensor.shape[0]; ++e)
    arrays.push_back({{fmt::format("{}{}.{}", stem, e, rest), dtype, {rows, tensor.shape[2]}},
                      [name, &tensor, dtype, e, rows, &threads](const Sink& sink) {
                        return write_rows(name, tensor, e * rows, (e + 1) * rows, dtype, sink, threads);
                      }});
  return arrays;
}

std::string config_text(const Model& model, DType dtype) {
  Json config = model.config;
  config.erase("quantization_config");
  config["torch_dtype"] = dtype == DType::kBF16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
  return config.dump(2) + "\n";
}

}  // namespace

Status export_hf(const Model& model, DType dtype, const std::string& directory, const Context& context) {
  std::error_code error;
  if (fs::exists(directory, error)) return bad_usage("{}: already exists; choose another name or remove it", directory);
  const std::string partial = partial_directory(directory);
  fs::remove_all(partial, error);
  fs::create_directories(partial, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be created: {}", partial, error.message());
  std::vector<PendingArray> arrays;
  for (const std::string& name : tensor_names(model.spec))
    for (PendingArray& array : arrays_of(name, *model.find(name), dtype, context.threads)) arrays.push_back(std::move(array));
  const auto written = write_shards(partial, plan_shards(std::move(arrays), kShardBytes));
  const auto write_texts = [&]() -> Status {
    for (const CarriedFile& file : model.files) TQ_TRY(write_file(partial + "/" + file.name, file.text));
    TQ_TRY(write_file(partial + "/config.json", config_text(model, dtype)));
    return publish(directory);
  };
  const Status status = written ? write_texts() : Status(Unexpected(written.error()));
  if (!status) fs::remove_all(partial, error);
  return status;
}

}  // namespace tq
