// Inside safetensors: the JSON texts of the format, read event by event because headers reach 100 MB and are not to be trusted.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "io/safetensors.h"

namespace tq::safetensors {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

// A tensor as the header has it: bytes [begin, end) of the data section; dtype is known, nothing else is checked.
struct Entry {
  TensorInfo info;
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct Header {
  std::vector<Entry> entries;  // in the order of the text
  std::map<std::string, std::string> metadata;
};

Result<Header> parse_header(std::string_view json, const std::string& where);

// "weight_map" of model.safetensors.index.json: tensor to file, in the order of the text.
struct IndexEntry {
  std::string tensor;
  std::string file;
};
Result<std::vector<IndexEntry>> parse_index(std::string_view json, const std::string& where);

// Bytes of a tensor. Errors when a dimension is negative or the product of those that are not 0 overflows, so that
// element_count() cannot.
Result<uint64_t> tensor_bytes(const TensorInfo& info, const std::string& where);

// The header's length, its text padded with spaces so that the data begins at a multiple of 64 bytes. The list must be sound.
std::string header_bytes(const std::vector<TensorInfo>& tensors, const std::map<std::string, std::string>& metadata);

}  // namespace tq::safetensors
