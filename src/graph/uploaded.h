// Small arrays of the host in a workspace.
#pragma once

#include <vector>

#include "graph/forward.h"

namespace tq {

// The values in a slot of the workspace, which holds nothing else until it is asked for again. T: of four bytes.
template <typename T>
const T* uploaded(Backend& backend, Workspace& workspace, size_t slot, const std::vector<T>& values) {
  static_assert(sizeof(T) == sizeof(float));
  float* memory = workspace.floats(slot, static_cast<int64_t>(values.size()));
  backend.upload(memory, values.data(), values.size() * sizeof(T));
  return reinterpret_cast<const T*>(memory);
}

}  // namespace tq
