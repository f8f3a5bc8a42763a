#define TQ_SIMD_WIDTH 4
#include "kernels/cpu/rows/rows_simd.h"

#include "tensor/ggml_types.h"

namespace tq::cpu {

#if defined(__x86_64__)
const RowKernels& row_kernels_avx2();
const RowKernels& row_kernels_avx512();
#endif

const RowKernels& row_kernels(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return row_kernels_avx2();
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
    case Isa::kAmx: return row_kernels_avx512();
#endif
    default: return kRowTable;
  }
}

namespace {

std::optional<RowFormat> element_format(DType type) {
  switch (type) {
    case DType::kF32: return RowFormat::kF32;
    case DType::kF16: return RowFormat::kF16;
    case DType::kBF16: return RowFormat::kBf16;
    default: return std::nullopt;
  }
}

std::optional<RowFormat> block_format(std::string_view name) {
  constexpr std::pair<std::string_view, RowFormat> kFormats[] = {
      {"F32", RowFormat::kF32},   {"F16", RowFormat::kF16},   {"BF16", RowFormat::kBf16}, {"Q4_0", RowFormat::kQ4_0},
      {"Q4_1", RowFormat::kQ4_1}, {"Q5_0", RowFormat::kQ5_0}, {"Q5_1", RowFormat::kQ5_1}, {"Q8_0", RowFormat::kQ8_0},
      {"Q2_K", RowFormat::kQ2K},  {"Q3_K", RowFormat::kQ3K},  {"Q4_K", RowFormat::kQ4K},  {"Q5_K", RowFormat::kQ5K},
      {"Q6_K", RowFormat::kQ6K}};
  for (const auto& [text, format] : kFormats)
    if (text == name) return format;
  return std::nullopt;
}

}  // namespace

std::optional<RowFormat> row_format(const PackedTensor& tensor) {
  if (tensor.offset != 0.0f || tensor.parts.empty()) return std::nullopt;
  if (tensor.codec == CodecId::kPlain) return element_format(tensor.parts[0].view.dtype);
  if (tensor.codec != CodecId::kGgml) return std::nullopt;
  const GgmlType* type = ggml_type(tensor.variant);
  return type ? block_format(type->name) : std::nullopt;
}

bool is_blocks(RowFormat format) { return format >= RowFormat::kQ4_0; }

}  // namespace tq::cpu
