#include <algorithm>
#include <unordered_set>

#include "base/check.h"
#include "io/safetensors.h"
#include "io/safetensors_header.h"
#include "io/text.h"

namespace tq::safetensors {
namespace {

// The bytes of all tensors, if a reader will take the list.
Result<uint64_t> check_list(const std::vector<TensorInfo>& tensors, const std::map<std::string, std::string>& metadata,
                            const std::string& where) {
  for (const auto& [key, value] : metadata)
    if (!valid_utf8(key) || !valid_utf8(value)) return bad_input("{}: the metadata '{}' is not UTF-8", where, shown(key));
  std::unordered_set<std::string_view> names;
  uint64_t total = 0;
  for (const TensorInfo& info : tensors) {
    if (!printable_utf8(info.name) || info.name == "__metadata__")
      return bad_input("{}: '{}' cannot be the name of a tensor in safetensors", where, shown(info.name));
    if (!names.insert(info.name).second) return bad_input("{}: two tensors are named '{}'", where, info.name);
    TQ_ASSIGN(const uint64_t bytes, tensor_bytes(info, where));
    if (__builtin_add_overflow(total, bytes, &total) || total > static_cast<uint64_t>(INT64_MAX))
      return bad_input("{}: the tensors are larger than any file", where);
  }
  return total;
}

}  // namespace

void order_for_alignment(std::vector<TensorInfo>& tensors) {
  const auto rank = [](const TensorInfo& info) {
    const auto bytes = tensor_bytes(info, "");
    TQ_CHECK(bytes.has_value());
    return *bytes % 64 == 0 ? size_t{64} : dtype_size(info.dtype);
  };
  std::stable_sort(tensors.begin(), tensors.end(), [&](const TensorInfo& a, const TensorInfo& b) { return rank(a) > rank(b); });
}

Result<Writer> Writer::create(const std::string& path, std::vector<TensorInfo> tensors, std::map<std::string, std::string> metadata) {
  TQ_ASSIGN(const uint64_t data_bytes, check_list(tensors, metadata, path));
  const std::string header = header_bytes(tensors, metadata);
  if (header.size() - 8 > kMaxHeaderBytes)
    return bad_input("{}: the header would be {} bytes, above the format's limit of {}; write several files", path, header.size() - 8,
                     kMaxHeaderBytes);
  TQ_ASSIGN(OutputFile file, OutputFile::create(path));
  TQ_TRY(file.write(header));
  return Writer(std::move(file), data_bytes);
}

Status Writer::append(std::span<const std::byte> bytes) {
  TQ_CHECK(bytes.size() <= left_);
  left_ -= bytes.size();
  return file_.write(bytes);
}

Status Writer::finish() {
  TQ_CHECK(left_ == 0);
  return file_.commit();
}

uint64_t Writer::file_size(const std::vector<TensorInfo>& tensors, const std::map<std::string, std::string>& metadata) {
  const auto data_bytes = check_list(tensors, metadata, "");
  TQ_CHECK(data_bytes.has_value());
  return header_bytes(tensors, metadata).size() + *data_bytes;
}

}  // namespace tq::safetensors
