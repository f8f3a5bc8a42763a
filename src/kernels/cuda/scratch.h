// Device memory that grows and stays. Growing it invalidates what was recorded with it.
#pragma once

#include "base/check.h"
#include "kernels/cuda/device_memory.h"

namespace tq::cuda {

class Scratch {
 public:
  // At least so many values. generation: grows when the memory is another than before.
  template <typename T>
  T* get(int64_t count, uint64_t& generation) {
    const uint64_t bytes = static_cast<uint64_t>(count) * sizeof(T);
    if (memory_.bytes() < bytes) {
      grow(memory_, bytes);
      ++generation;
    }
    return memory_.as<T>();
  }

 private:
  DeviceMemory memory_;
};

}  // namespace tq::cuda
