#include "tensor/tensor_view.h"

#include <sys/mman.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/float16.h"

namespace tq {
namespace {

constexpr size_t kAlignment = 64, kHugePage = size_t{2} << 20, kLarge = 4 * kHugePage;

float f8_to_float(uint8_t bits, int mantissa_bits, int bias, bool has_infinity) {
  const int exponent_bits = 7 - mantissa_bits;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const float sign = (bits & 0x80) ? -1.0f : 1.0f;
  const bool top = exponent == (1 << exponent_bits) - 1;
  if (top && has_infinity) return mantissa ? std::nanf("") : sign * INFINITY;
  if (top && !has_infinity && mantissa == (1 << mantissa_bits) - 1) return std::nanf("");  // E4M3 keeps only this one
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits);
  return sign * std::ldexp(static_cast<float>(mantissa + (1 << mantissa_bits)), exponent - bias - mantissa_bits);
}

template <typename T, typename Convert>
void convert(const std::byte* in, int64_t count, float* out, Convert to) {
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, in + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    out[i] = to(value);
  }
}

template <typename T>
void convert_cast(const std::byte* in, int64_t count, float* out) {
  convert<T>(in, count, out, [](T value) { return static_cast<float>(value); });
}

}  // namespace

void* allocate_aligned(size_t bytes) {
  const size_t alignment = bytes >= kLarge ? kHugePage : kAlignment;
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!memory) throw std::bad_alloc();
  if (bytes >= kLarge) (void)madvise(memory, bytes, MADV_HUGEPAGE);  // advice: without it all is as before
  return memory;
}

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

void to_float(const TensorView& view, int64_t begin, int64_t count, float* out) {
  const std::byte* in = view.data + begin * static_cast<int64_t>(dtype_size(view.dtype));
  switch (view.dtype) {
    case DType::kBool:
    case DType::kU8: return convert_cast<uint8_t>(in, count, out);
    case DType::kI8: return convert_cast<int8_t>(in, count, out);
    case DType::kF8E5M2: return convert<uint8_t>(in, count, out, [](uint8_t b) { return f8_to_float(b, 2, 15, true); });
    case DType::kF8E4M3: return convert<uint8_t>(in, count, out, [](uint8_t b) { return f8_to_float(b, 3, 7, false); });
    case DType::kI16: return convert_cast<int16_t>(in, count, out);
    case DType::kU16: return convert_cast<uint16_t>(in, count, out);
    case DType::kF16: return convert<uint16_t>(in, count, out, f16_to_float);
    case DType::kBF16: return convert<uint16_t>(in, count, out, bf16_to_float);
    case DType::kI32: return convert_cast<int32_t>(in, count, out);
    case DType::kU32: return convert_cast<uint32_t>(in, count, out);
    case DType::kF32:
      if (count > 0) std::memcpy(out, in, static_cast<size_t>(count) * 4);
      return;
    case DType::kF64: return convert_cast<double>(in, count, out);
    case DType::kI64: return convert_cast<int64_t>(in, count, out);
    case DType::kU64: return convert_cast<uint64_t>(in, count, out);
  }
}

void to_float(const TensorView& view, float* out) { to_float(view, 0, view.count(), out); }

}  // namespace tq
