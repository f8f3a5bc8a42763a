// A GGUF tensor as it lies in its file. Part: "blocks" U8 [bytes]; the variant is the type's id.
#include "codec/codec.h"
#include "codec/ggml/decode.h"
#include "tensor/ggml_types.h"

namespace tq {
namespace {

class GgmlCodec final : public Codec {
 public:
  CodecInfo info() const override { return {.name = "ggml", .id = CodecId::kGgml, .version = 1, .cut_unit = 1}; }

  Status validate(const PackedTensor& tensor, const std::string& where) const override {
    const GgmlType* type = ggml_type(tensor.variant);
    if (!type || !ggml::can_decode(tensor.variant)) return bad_input("{}: type {} cannot be decoded", where, tensor.variant);
    if (tensor.columns() % type->block_size != 0)
      return bad_input("{}: rows of {} elements are no whole number of {} blocks", where, tensor.columns(), type->name);
    const TensorView* blocks = tensor.part("blocks");
    const int64_t expected = element_count(tensor.shape) / type->block_size * type->block_bytes;
    if (!blocks || static_cast<int64_t>(blocks->bytes()) != expected)
      return bad_input("{}: {} bytes of {} blocks were expected for {}", where, expected, type->name, shape_text(tensor.shape));
    return {};
  }

  void decode_rows(const PackedTensor& tensor, int64_t begin, int64_t count, float* out) const override {
    const GgmlType* type = ggml_type(tensor.variant);
    const int64_t blocks = tensor.columns() / type->block_size;  // a row
    ggml::decode_blocks(tensor.variant, tensor.part("blocks")->data + begin * blocks * type->block_bytes, count * blocks, out);
  }

  void cut_rows(const PackedTensor& tensor, int64_t expert, int64_t begin, int64_t count, PackedTensor& out) const override {
    const GgmlType* type = ggml_type(tensor.variant);
    const int64_t row_bytes = tensor.columns() / type->block_size * type->block_bytes;
    const int64_t first = expert * tensor.shape[tensor.shape.size() - 2] + begin;
    out.parts.push_back({"blocks", {DType::kU8, {count * row_bytes}, tensor.part("blocks")->data + first * row_bytes}});
  }
};

}  // namespace

const Codec& ggml_codec() {
  static const GgmlCodec codec;
  return codec;
}

}  // namespace tq
