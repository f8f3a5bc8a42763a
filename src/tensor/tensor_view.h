// Shapes, views of tensors that somebody else owns, and buffers that own their memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "tensor/dtype.h"

namespace tq {

// Outermost dimension first, as everywhere in this project; a vector has one dimension, a scalar none.
using Shape = std::vector<int64_t>;

inline int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

std::string shape_text(const Shape& shape);  // "[2048, 5632]"

// Row-major, contiguous, read-only. Copying it copies the pointer. The owner must outlive it.
struct TensorView {
  DType dtype = DType::kU8;
  Shape shape;
  const std::byte* data = nullptr;

  int64_t count() const { return element_count(shape); }
  size_t bytes() const { return static_cast<size_t>(count()) * dtype_size(dtype); }
  std::span<const std::byte> span() const { return {data, bytes()}; }
  template <typename T>
  const T* as() const {
    TQ_CHECK(sizeof(T) == dtype_size(dtype));
    return reinterpret_cast<const T*>(data);
  }
};

// Converts any floating or integer tensor to float. out has view.count() elements.
void to_float(const TensorView& view, float* out);
// A part of it: elements [begin, begin + count).
void to_float(const TensorView& view, int64_t begin, int64_t count, float* out);

// Memory for free(), 64-byte aligned at least. Large memory asks for huge pages: touching it for the first time costs a fault a page.
void* allocate_aligned(size_t bytes);

// 64-byte aligned memory of trivially copyable T, zeroed unless `uninitialized` is used. Moves, does not copy.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) : Buffer(uninitialized(count)) { std::fill_n(data(), count, T{}); }
  static Buffer uninitialized(size_t count) {
    Buffer buffer;
    if (count == 0) return buffer;
    buffer.data_.reset(static_cast<T*>(allocate_aligned(count * sizeof(T))));
    buffer.size_ = count;
    return buffer;
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }

 private:
  struct Free {
    void operator()(T* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<T[], Free> data_;
  size_t size_ = 0;
};

}  // namespace tq
