// A copy of a golden artifact whose parts can be changed before it is written to a temporary directory.
#pragma once

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "artifact/reader.h"
#include "artifact/writer.h"
#include "base/output_file.h"

namespace tq {

inline std::string golden_folder(int format = 1) { return fmt::format("{}/artifact/format-{}", TQ_TEST_DATA, format); }

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tq-artifact-XXXXXX").string();
    TQ_CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

struct EditableArtifact {
  struct Array {
    safetensors::TensorInfo info;
    std::vector<std::byte> data;

    template <typename T>
    void set(size_t index, T value) {
      TQ_CHECK((index + 1) * sizeof(T) <= data.size());
      std::memcpy(data.data() + index * sizeof(T), &value, sizeof(T));
    }
    // Changes the number of elements of a one-dimensional array; new ones are 0.
    void resize(int64_t count) {
      info.shape = {count};
      data.resize(static_cast<size_t>(count) * dtype_size(info.dtype));
    }
  };

  Json config;
  std::vector<Array> arrays;

  explicit EditableArtifact(const std::string& golden, int format = 1) {
    const std::string folder = golden_folder(format) + "/" + golden;
    config = read_json_file(folder + "/config.json").value();
    const auto archive = safetensors::Archive::open_directory(folder).value();
    for (const auto& tensor : archive->tensors()) {
      const auto bytes = tensor.view.span();
      arrays.push_back({{tensor.name, tensor.view.dtype, tensor.view.shape}, {bytes.begin(), bytes.end()}});
    }
  }

  Array& at(const std::string& name) {
    for (Array& array : arrays)
      if (array.info.name == name) return array;
    TQ_CHECK(!"an array of that name");
    __builtin_unreachable();
  }
  void erase(const std::string& name) {
    std::erase_if(arrays, [&](const Array& array) { return array.info.name == name; });
  }
  Array& add(const std::string& name, DType dtype, Shape shape) {
    const auto bytes = static_cast<size_t>(element_count(shape)) * dtype_size(dtype);
    arrays.push_back({{name, dtype, std::move(shape)}, std::vector<std::byte>(bytes)});
    return arrays.back();
  }

  std::vector<PendingArray> pending_arrays() const {
    std::vector<PendingArray> out;
    for (const Array& array : arrays)
      out.push_back(pending(array.info.name, {array.info.dtype, array.info.shape, array.data.data()}, nullptr));
    return out;
  }
  // Writes config.json, the shards and a turboquant.json with their hashes.
  void save(const std::string& folder, uint64_t shard_bytes = uint64_t{1} << 40) const {
    TQ_CHECK(write_file(folder + "/config.json", config.dump(2)).has_value());
    const auto hashes = write_shards(folder, plan_shards(pending_arrays(), shard_bytes));
    TQ_CHECK(hashes.has_value());
    TQ_CHECK(write_file(folder + "/turboquant.json", Json{{"format", kFormatVersion}, {"files", *hashes}}.dump(2)).has_value());
  }
  // The arrays in one file in the order they have here, which may be one without alignment.
  void save_unordered(const std::string& folder) const {
    TQ_CHECK(write_file(folder + "/config.json", config.dump(2)).has_value());
    std::vector<safetensors::TensorInfo> infos;
    for (const Array& array : arrays) infos.push_back(array.info);
    auto writer = safetensors::Writer::create(folder + "/model.safetensors", infos);
    TQ_CHECK(writer.has_value());
    for (const Array& array : arrays) TQ_CHECK(writer->append(array.data).has_value());
    TQ_CHECK(writer->finish().has_value());
  }
};

}  // namespace tq
