// The geometry of GGUF's tensor types: how many bytes a block takes. What the bytes mean is codec/ggml.
#pragma once

#include <cstdint>
#include <string_view>

namespace tq {

struct GgmlType {
  uint32_t id = 0;  // as in a GGUF file
  std::string_view name;
  int64_t block_size = 0;  // elements
  int64_t block_bytes = 0;
};

// nullptr for an id that ggml never used or has withdrawn.
const GgmlType* ggml_type(uint32_t id);

}  // namespace tq
