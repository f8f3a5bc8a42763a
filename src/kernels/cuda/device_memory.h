// Device memory for C++.
#pragma once

#include <cuda_runtime_api.h>

#include "base/check.h"
#include "base/result.h"

namespace tq::cuda {

// A copy that has arrived when it returns. cudaMemcpy alone has only read the host's memory by then, and the streams that kernels run on
// here don't wait for the legacy stream.
inline cudaError_t copy_from_host(void* to, const void* host, uint64_t bytes) {
  const cudaError_t copied = cudaMemcpy(to, host, bytes, cudaMemcpyHostToDevice);
  return copied == cudaSuccess ? cudaStreamSynchronize(cudaStreamLegacy) : copied;
}

class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(DeviceMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_), std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceMemory() { cudaFree(data_); }

  // Errors: kNoResource, with what the card has and what was asked for. Large regions leave the driver some memory: it loads kernels when
  // they are first launched, and takes more for recorded passes.
  static Result<DeviceMemory> allocate(uint64_t bytes) {
    constexpr uint64_t kLarge = uint64_t{1} << 20, kSpare = uint64_t{128} << 20;
    DeviceMemory memory;
    if (bytes == 0) return memory;
    size_t free = 0, total = 0;
    const bool has_room = bytes < kLarge || cudaMemGetInfo(&free, &total) != cudaSuccess || free >= bytes + kSpare;
    if (has_room && cudaMalloc(&memory.data_, bytes) == cudaSuccess) {
      memory.bytes_ = bytes;
      return memory;
    }
    (void)cudaGetLastError();  // the next call must not report it again
    memory.data_ = nullptr;
    (void)cudaMemGetInfo(&free, &total);
    return fail(ErrorCode::kNoResource,
                "the card has {:.2f} of its {:.2f} GB free, {:.2f} GB more are needed; take fewer bits, a shorter context or --backend cpu",
                static_cast<double>(free) / 1e9, static_cast<double>(total) / 1e9, static_cast<double>(bytes) / 1e9);
  }
  // Allocates and copies from the host.
  static Result<DeviceMemory> of(const void* host, uint64_t bytes) {
    TQ_ASSIGN(DeviceMemory memory, allocate(bytes));
    if (bytes > 0 && copy_from_host(memory.data_, host, bytes) != cudaSuccess)
      return fail(ErrorCode::kFailed, "copying to the card failed: {}", cudaGetErrorString(cudaGetLastError()));
    return memory;
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  uint64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Memory of at least so many bytes: the same as before, or more of it without what it held.
inline void* grow(DeviceMemory& memory, uint64_t bytes) {
  if (memory.bytes() < bytes) {
    memory = DeviceMemory();
    auto grown = DeviceMemory::allocate(bytes);
    TQ_CHECK(grown.has_value());
    memory = std::move(*grown);
  }
  return memory.as<void>();
}

}  // namespace tq::cuda
