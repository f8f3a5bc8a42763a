// Elements as they are: the codec of every unquantized tensor. Part: "weight", of the tensor's shape.
#include "codec/codec.h"

namespace tq {
namespace {

class PlainCodec final : public Codec {
 public:
  CodecInfo info() const override { return {"plain", CodecId::kPlain, 1}; }

  Status validate(const PackedTensor& tensor, const std::string& where) const override {
    const TensorView* weight = tensor.part("weight");
    if (!weight) return bad_input("{}: the tensor has no data", where);
    if (weight->shape != tensor.shape)
      return bad_input("{}: the shape is {}, {} was expected", where, shape_text(weight->shape), shape_text(tensor.shape));
    return {};
  }

  void decode_rows(const PackedTensor& tensor, int64_t begin, int64_t count, float* out) const override {
    to_float(*tensor.part("weight"), begin * tensor.columns(), count * tensor.columns(), out);
  }
};

}  // namespace

const Codec& plain_codec() {
  static const PlainCodec codec;
  return codec;
}

}  // namespace tq
