// Memory of the device that throws: rounding has many small arrays, and one place that turns what went wrong into words.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace tq::cuda {

struct DeviceError {
  std::string text;
};
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw DeviceError{std::string(what) + ": " + cudaGetErrorString(status)};
}
inline void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw DeviceError{std::string(what) + ": cuBLAS error " + std::to_string(static_cast<int>(status))};
}

template <typename T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t count) {
    if (count > 0) check(cudaMalloc(&data_, count * sizeof(T)), "memory of the device");
  }
  Array(const T* host, size_t count) : Array(count) { upload(host, count); }
  explicit Array(const std::vector<T>& host) : Array(host.data(), host.size()) {}
  Array(Array&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Array& operator=(Array&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Array() { cudaFree(data_); }
  T* get() const { return data_; }
  void upload(const T* host, size_t count) {
    if (count > 0) check(cudaMemcpy(data_, host, count * sizeof(T), cudaMemcpyHostToDevice), "copy to the device");
  }
  void download(T* host, size_t count) const {
    if (count > 0) check(cudaMemcpy(host, data_, count * sizeof(T), cudaMemcpyDeviceToHost), "copy from the device");
  }

 private:
  T* data_ = nullptr;
};

// cuBLAS of the device that is set. Products of errors and codes with factors of 11 bits: what is fed back, and what scales are refitted
// with, is many times coarser.
class Blas {
 public:
  Blas() {
    check(cublasCreate(&handle_), "cuBLAS");
    if (const cublasStatus_t status = cublasSetMathMode(handle_, CUBLAS_TF32_TENSOR_OP_MATH); status != CUBLAS_STATUS_SUCCESS) {
      cublasDestroy(handle_);
      check(status, "cuBLAS");
    }
  }
  ~Blas() { cublasDestroy(handle_); }
  Blas(const Blas&) = delete;
  cublasHandle_t get() const { return handle_; }

 private:
  cublasHandle_t handle_ = nullptr;
};

}  // namespace tq::cuda
