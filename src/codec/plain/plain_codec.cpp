// Elements as they are: the codec of every unquantized tensor. Part: "weight", of the tensor's shape; a stack of experts [E, R, C] may
// have E parts "weight" of [R, C] instead.
#include <algorithm>

#include "codec/codec.h"

namespace tq {
namespace {

// Whole numbers are codes of a quantization that this program does not know.
bool is_floating(DType type) {
  return type == DType::kF64 || type == DType::kF32 || type == DType::kF16 || type == DType::kBF16 || type == DType::kF8E4M3 ||
         type == DType::kF8E5M2;
}

class PlainCodec final : public Codec {
 public:
  CodecInfo info() const override { return {.name = "plain", .id = CodecId::kPlain, .version = 1, .cut_unit = 1}; }

  Status validate(const PackedTensor& tensor, const std::string& where) const override {
    if (tensor.parts.empty()) return bad_input("{}: the tensor has no data", where);
    Shape expected = tensor.shape;
    if (tensor.parts.size() > 1) {
      if (expected.size() != 3 || expected[0] != static_cast<int64_t>(tensor.parts.size()))
        return bad_input("{}: {} parts make no {}", where, tensor.parts.size(), shape_text(tensor.shape));
      expected.erase(expected.begin());
    }
    for (const auto& part : tensor.parts) {
      if (part.name != "weight" || part.view.shape != expected)
        return bad_input("{}: the shape is {}, {} was expected", where, shape_text(part.view.shape), shape_text(expected));
      if (!is_floating(part.view.dtype))
        return bad_input("{}: the type is {}, a floating one was expected", where, dtype_name(part.view.dtype));
    }
    return {};
  }

  void decode_rows(const PackedTensor& tensor, int64_t begin, int64_t count, float* out) const override {
    const int64_t columns = tensor.columns();
    const int64_t rows = tensor.rows() / static_cast<int64_t>(tensor.parts.size());  // of a part
    while (count > 0) {
      const int64_t first = begin % rows, here = std::min(count, rows - first);
      to_float(tensor.parts[static_cast<size_t>(begin / rows)].view, first * columns, here * columns, out);
      begin += here, count -= here, out += here * columns;
    }
  }

  void cut_rows(const PackedTensor& tensor, int64_t expert, int64_t begin, int64_t count, PackedTensor& out) const override {
    const int64_t rows = tensor.shape[tensor.shape.size() - 2], columns = tensor.columns();
    const bool is_apart = tensor.parts.size() > 1;
    const TensorView& view = tensor.parts[static_cast<size_t>(is_apart ? expert : 0)].view;
    const int64_t first = (is_apart ? 0 : expert * rows) + begin;
    const auto skipped = static_cast<size_t>(first * columns) * dtype_size(view.dtype);
    out.parts.push_back({"weight", {view.dtype, {count, columns}, view.data + skipped}});
  }
};

}  // namespace

const Codec& plain_codec() {
  static const PlainCodec codec;
  return codec;
}

}  // namespace tq
