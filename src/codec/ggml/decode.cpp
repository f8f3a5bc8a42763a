#include "codec/ggml/decode.h"

#include "base/check.h"
#include "codec/ggml/blocks.h"
#include "tensor/dtype.h"
#include "tensor/ggml_types.h"
#include "tensor/tensor_view.h"

namespace tq::ggml {
namespace {

struct Entry {
  uint32_t type;
  Decoder decode;
};

constexpr Entry kDecoders[] = {
    {2, decode_q4_0},     {3, decode_q4_1},    {6, decode_q5_0},     {7, decode_q5_1},   {8, decode_q8_0},    {9, decode_q8_1},
    {10, decode_q2_k},    {11, decode_q3_k},   {12, decode_q4_k},    {13, decode_q5_k},  {14, decode_q6_k},   {15, decode_q8_k},
    {16, decode_iq2_xxs}, {17, decode_iq2_xs}, {18, decode_iq3_xxs}, {19, decode_iq1_s}, {20, decode_iq4_nl}, {21, decode_iq3_s},
    {22, decode_iq2_s},   {23, decode_iq4_xs}, {29, decode_iq1_m},   {34, decode_tq1_0}, {35, decode_tq2_0},  {39, decode_mxfp4},
    {40, decode_nvfp4},   {41, decode_q1_0},   {42, decode_q2_0},
};

Decoder find(uint32_t type) {
  for (const Entry& entry : kDecoders)
    if (entry.type == type) return entry.decode;
  return nullptr;
}

// The types that are elements, not blocks.
std::optional<DType> plain_type(uint32_t type) {
  const GgmlType* geometry = ggml_type(type);
  return geometry ? dtype_from_name(geometry->name) : std::nullopt;
}

}  // namespace

bool can_decode(uint32_t type) { return find(type) != nullptr || plain_type(type).has_value(); }

void decode_blocks(uint32_t type, const std::byte* data, int64_t blocks, float* out) {
  if (const Decoder decoder = find(type)) return decoder(reinterpret_cast<const uint8_t*>(data), blocks, out);
  const std::optional<DType> plain = plain_type(type);
  TQ_CHECK(plain.has_value());
  to_float(TensorView{*plain, {blocks}, data}, out);
}

}  // namespace tq::ggml
