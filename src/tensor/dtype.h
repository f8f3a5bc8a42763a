// Element types of plain tensors: those of safetensors that a model can hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tq {

enum class DType : uint8_t { kBool, kU8, kI8, kF8E5M2, kF8E4M3, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kF64, kI64, kU64 };

size_t dtype_size(DType type);            // bytes of an element
std::string_view dtype_name(DType type);  // safetensors' spelling: "F32", "BF16", …
std::optional<DType> dtype_from_name(std::string_view name);

}  // namespace tq
