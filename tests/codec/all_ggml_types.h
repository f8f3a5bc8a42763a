// Every type of GGUF files that the program knows.
#pragma once

#include <vector>

#include "tensor/ggml_types.h"

namespace tq {

inline std::vector<GgmlType> all_ggml_types() {
  std::vector<GgmlType> types;
  for (uint32_t id = 0; id < 256; ++id)
    if (const GgmlType* type = ggml_type(id)) types.push_back(*type);
  return types;
}

}  // namespace tq
