// Memory of an operation that grows and stays.
#pragma once

#include <cstdint>

#include "tensor/tensor_view.h"

namespace tq::cpu {

// Room for `count` values; what was in the buffer is lost where it has to grow.
template <typename T>
T* grow(Buffer<T>& buffer, int64_t count) {
  if (buffer.size() < static_cast<size_t>(count)) buffer = Buffer<T>::uninitialized(static_cast<size_t>(count));
  return buffer.data();
}

}  // namespace tq::cpu
