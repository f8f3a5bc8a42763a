// Device memory that grows and stays. Growing it invalidates what was recorded with it.
#pragma once

#include "base/check.h"
#include "kernels/cuda/device_memory.h"

namespace tq::cuda {

class Scratch {
 public:
  // At least so many bytes. generation: grows when the memory is another than before. Errors: kNoResource; the memory is gone then.
  Status reserve(int64_t bytes, uint64_t& generation) {
    if (memory_.bytes() >= static_cast<uint64_t>(bytes)) return {};
    ++generation;
    memory_ = DeviceMemory();  // before its successor
    TQ_ASSIGN(memory_, DeviceMemory::allocate(static_cast<uint64_t>(bytes)));
    return {};
  }
  // At least so many values.
  template <typename T>
  T* get(int64_t count, uint64_t& generation) {
    TQ_CHECK(reserve(count * static_cast<int64_t>(sizeof(T)), generation));
    return memory_.as<T>();
  }
  template <typename T>
  T* as() const {
    return memory_.as<T>();
  }

 private:
  DeviceMemory memory_;
};

}  // namespace tq::cuda
