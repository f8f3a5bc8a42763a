#include "tensor/dtype.h"

#include <array>

#include "base/check.h"

namespace tq {
namespace {

struct Info {
  DType type;
  uint8_t size;
  std::string_view name;
};

constexpr std::array<Info, 15> kInfo{{{DType::kBool, 1, "BOOL"},
                                      {DType::kU8, 1, "U8"},
                                      {DType::kI8, 1, "I8"},
                                      {DType::kF8E5M2, 1, "F8_E5M2"},
                                      {DType::kF8E4M3, 1, "F8_E4M3"},
                                      {DType::kI16, 2, "I16"},
                                      {DType::kU16, 2, "U16"},
                                      {DType::kF16, 2, "F16"},
                                      {DType::kBF16, 2, "BF16"},
                                      {DType::kI32, 4, "I32"},
                                      {DType::kU32, 4, "U32"},
                                      {DType::kF32, 4, "F32"},
                                      {DType::kF64, 8, "F64"},
                                      {DType::kI64, 8, "I64"},
                                      {DType::kU64, 8, "U64"}}};

const Info& info(DType type) {
  const auto& entry = kInfo.at(static_cast<size_t>(type));
  TQ_CHECK(entry.type == type);
  return entry;
}

}  // namespace

size_t dtype_size(DType type) { return info(type).size; }

std::string_view dtype_name(DType type) { return info(type).name; }

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const Info& entry : kInfo)
    if (entry.name == name) return entry.type;
  return std::nullopt;
}

}  // namespace tq
