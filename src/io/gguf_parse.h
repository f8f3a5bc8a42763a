// Inside gguf: one file's bytes into values and tensors that point into them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "io/gguf.h"

namespace tq::gguf {

// Ids of the file format.
enum class ValueType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

std::string_view value_type_name(ValueType type);  // "u8", …, "string", "array"
uint64_t value_type_size(ValueType type);          // bytes; 0 for strings and arrays, whose size varies

struct Value {
  std::string_view key;
  ValueType type = ValueType::kU8;
  ValueType element = ValueType::kU8;   // of an array; the same as type otherwise
  uint64_t count = 1;                   // of an array's elements
  std::span<const std::byte> elements;  // strings with their 8-byte lengths; checked to hold `count` sound elements
};

struct Part {
  std::vector<Value> values;
  std::vector<Tensor> tensors;
};

struct File::Content {
  std::string where;
  std::vector<std::shared_ptr<const MappedFile>> mappings;  // of all parts; none when the bytes are somebody else's
  std::vector<Value> values;
  std::vector<Tensor> tensors;
  std::unordered_map<std::string_view, const Value*> values_by_key;
  std::unordered_map<std::string_view, const Tensor*> tensors_by_name;
  uint64_t file_bytes = 0;

  const Value* find(std::string_view key) const {
    const auto found = values_by_key.find(key);
    return found == values_by_key.end() ? nullptr : found->second;
  }
};

// Keys and tensor names are unique, tensors lie inside the bytes and do not overlap.
Result<Part> parse_part(std::span<const std::byte> bytes, const std::string& where);

}  // namespace tq::gguf
