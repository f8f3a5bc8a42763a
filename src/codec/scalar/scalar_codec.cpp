// The codec "scalar": strict checks of a stored tensor, and its decoding.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/float16.h"
#include "codec/checked_part.h"
#include "codec/scalar/scalar.h"

namespace tq {
namespace {

Status check_order(const PackedTensor& tensor, const std::string& where, int64_t experts, int64_t columns) {
  if (!tensor.part("order")) return {};
  TQ_ASSIGN(const TensorView* part, checked_part(tensor, where, "order", DType::kU16, experts * columns));
  const uint16_t* order = part->as<uint16_t>();
  for (int64_t e = 0; e < experts; ++e) {
    std::vector<bool> seen(static_cast<size_t>(columns));
    for (int64_t i = 0; i < columns; ++i) {
      const int64_t column = order[e * columns + i];
      if (column >= columns || seen[static_cast<size_t>(column)]) return bad_input("{}: order is no order of {} columns", where, columns);
      seen[static_cast<size_t>(column)] = true;
    }
  }
  return {};
}

class ScalarCodec final : public Codec {
 public:
  CodecInfo info() const override { return {"scalar", CodecId::kScalar, 1}; }

  Status validate(const PackedTensor& tensor, const std::string& where) const override {
    const Shape& shape = tensor.shape;
    constexpr int64_t kLargestDim = int64_t{1} << 20;
    if ((shape.size() != 2 && shape.size() != 3) ||
        !std::all_of(shape.begin(), shape.end(), [](int64_t dim) { return dim >= 1 && dim <= kLargestDim; }))
      return bad_input("{}: scalar codes store matrices and stacks of them, the shape is {}", where, shape_text(shape));
    const int64_t experts = shape.size() == 3 ? shape[0] : 1, rows = shape[shape.size() - 2], columns = shape.back();
    TQ_ASSIGN(const TensorView* facts, checked_part(tensor, where, "scalar", DType::kU16, 2 * experts));
    const int bits = facts->as<uint16_t>()[0];
    const int64_t group = facts->as<uint16_t>()[1];
    if (bits < 2 || bits > 8 || group < 1 || columns % group != 0)
      return bad_input("{}: scalar codes of {} bits in groups of {} columns make no sense for {} columns", where, bits, group, columns);
    for (int64_t e = 1; e < experts; ++e)
      if (facts->as<uint16_t>()[2 * e] != bits || facts->as<uint16_t>()[2 * e + 1] != group)
        return bad_input("{}: the experts of one stack have different bits or groups", where);
    const int64_t scales = rows * (columns / group);
    TQ_TRY(checked_part(tensor, where, "codes", DType::kU8, experts * rows * scalar::row_bytes(columns, bits)));
    TQ_TRY(checked_part(tensor, where, "zero", DType::kU8, experts * scalar::row_bytes(scales, bits)));
    TQ_ASSIGN(const TensorView* scale, checked_part(tensor, where, "scale", DType::kF16, experts * scales));
    for (int64_t i = 0; i < scale->count(); ++i)
      if ((scale->as<uint16_t>()[i] & 0x7c00u) == 0x7c00u) return bad_input("{}: scale {} is not finite; the file is damaged", where, i);
    return check_order(tensor, where, experts, columns);
  }

  void decode_rows(const PackedTensor& tensor, int64_t begin, int64_t count, float* out) const override {
    const int64_t rows = tensor.shape[tensor.shape.size() - 2], columns = tensor.columns();
    while (count > 0) {
      const int64_t first = begin % rows, here = std::min(count, rows - first);
      const scalar::Matrix matrix = scalar::open(tensor, begin / rows);
      for (int64_t r = first; r < first + here; ++r, out += columns) decode_row(matrix, r, out);
      begin += here, count -= here;
    }
  }

 private:
  static void decode_row(const scalar::Matrix& m, int64_t row, float* out) {
    const uint8_t* codes = m.codes + row * scalar::row_bytes(m.columns, m.bits);
    for (int64_t k = 0; k < m.columns; ++k) {
      const int64_t at = row * m.groups() + m.group_of[static_cast<size_t>(k)];
      const scalar::Range range{f16_to_float(m.scale[at]), static_cast<int>(scalar::get(m.zero, at, m.bits))};
      out[k] = scalar::value_of(scalar::get(codes, k, m.bits), range);
    }
  }
};

}  // namespace

const Codec& scalar_codec() {
  static const ScalarCodec codec;
  return codec;
}

}  // namespace tq
