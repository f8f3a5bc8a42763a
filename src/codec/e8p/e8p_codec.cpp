// The codec "e8p": strict checks of a stored tensor, and its decoding.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/float16.h"
#include "codec/checked_part.h"
#include "codec/e8p/e8p.h"

namespace tq {
namespace e8p {

Matrix open(const PackedTensor& tensor, int64_t expert) {
  const size_t dims = tensor.shape.size();
  Matrix m;
  m.rows = tensor.shape[dims - 2], m.columns = tensor.shape[dims - 1];
  m.first_vector = expert * m.rows * (m.columns / kWidth);
  m.vectors = tensor.part("vectors")->as<uint16_t>() + m.first_vector;
  m.residual = tensor.part("residual");
  m.stage = tensor.part("stage")->as<float>() + 2 * expert;
  m.row_sign = tensor.part("row_sign")->as<uint8_t>() + expert * ((m.rows + 7) / 8);
  if (const TensorView* scales = tensor.part("row_scale")) m.row_scale = scales->as<uint16_t>() + expert * m.rows;
  m.sign = tensor.part("sign")->as<uint8_t>();
  m.absolute = tensor.part("e8p.absolute")->as<float>();
  if (const TensorView* table = tensor.part("e8p.residual")) m.residual_entries = table->as<float>();
  return m;
}

void decode_transformed(const Matrix& m, float* out) {
  const int64_t count = m.rows * (m.columns / kWidth);
  for (int64_t i = 0; i < count; ++i, out += kWidth) {
    Vector value = decode(m.absolute, m.vectors[i]);
    if (m.residual) {
      const int64_t at = m.first_vector + i;
      const bool is_code = m.residual->dtype == DType::kU16;
      const Vector fine = is_code ? decode(m.absolute, m.residual->as<uint16_t>()[at]) : Vector{};
      const float* entry = is_code ? fine.data() : m.residual_entries + m.residual->as<uint8_t>()[at] * kWidth;
      for (size_t k = 0; k < kWidth; ++k) value[k] += m.stage[1] * entry[k];
    }
    for (size_t k = 0; k < kWidth; ++k) out[k] = m.stage[0] * value[k];
  }
}

}  // namespace e8p

namespace {

Status check_finite(const TensorView& part, const std::string& where, std::string_view name) {
  const float* values = part.as<float>();
  if (std::all_of(values, values + part.count(), [](float x) { return std::isfinite(x); })) return {};
  return bad_input("{}: {} holds a value that is not finite; the file is damaged", where, name);
}

class E8pCodec final : public Codec {
 public:
  CodecInfo info() const override { return {.name = "e8p", .id = CodecId::kE8p, .version = 1, .is_whole = true}; }

  Status validate(const PackedTensor& tensor, const std::string& where) const override {
    constexpr int64_t kLargestDim = int64_t{1} << 20;
    const Shape& shape = tensor.shape;
    const bool fits = std::all_of(shape.begin(), shape.end(), [](int64_t dim) { return dim >= 1 && dim <= kLargestDim; });
    if ((shape.size() != 2 && shape.size() != 3) || !fits || shape.back() % e8p::kWidth != 0)
      return bad_input("{}: e8p stores matrices of a multiple of 8 columns and stacks of them, the shape is {}", where, shape_text(shape));
    const int64_t experts = shape.size() == 3 ? shape[0] : 1, rows = shape[shape.size() - 2], columns = shape.back();
    const int64_t vectors = experts * rows * (columns / e8p::kWidth), table = e8p::kEntries * e8p::kWidth;
    TQ_TRY(checked_part(tensor, where, "vectors", DType::kU16, vectors));
    TQ_TRY(checked_part(tensor, where, "row_sign", DType::kU8, experts * ((rows + 7) / 8)));
    if (tensor.part("row_scale")) TQ_TRY(check_scales(tensor, where, experts * rows));
    TQ_TRY(checked_part(tensor, where, "sign", DType::kU8, (columns + 7) / 8));
    TQ_ASSIGN(const TensorView* stage, checked_part(tensor, where, "stage", DType::kF32, 2 * experts));
    TQ_TRY(check_finite(*stage, where, "stage"));
    TQ_TRY(check_table(tensor, where, "e8p.absolute", table));
    const TensorView* residual = tensor.part("residual");
    if (!residual) return {};
    TQ_TRY(checked_part(tensor, where, "residual", residual->dtype == DType::kU8 ? DType::kU8 : DType::kU16, vectors));
    if (residual->dtype == DType::kU8) return check_table(tensor, where, "e8p.residual", table);
    return {};
  }

  void decode_rows(const PackedTensor& tensor, int64_t begin, int64_t count, float* out) const override {
    const int64_t rows = tensor.shape[tensor.shape.size() - 2], columns = tensor.columns();
    while (count > 0) {
      const int64_t first = begin % rows, here = std::min(count, rows - first);
      const std::vector<float> all = decode_matrix(e8p::open(tensor, begin / rows));
      std::copy_n(all.data() + first * columns, here * columns, out);
      begin += here, count -= here, out += here * columns;
    }
  }

 private:
  static Status check_scales(const PackedTensor& tensor, const std::string& where, int64_t count) {
    TQ_ASSIGN(const TensorView* scales, checked_part(tensor, where, "row_scale", DType::kF16, count));
    const uint16_t* values = scales->as<uint16_t>();
    if (std::all_of(values, values + count, [](uint16_t half) { return std::isfinite(f16_to_float(half)); })) return {};
    return bad_input("{}: row_scale holds a value that is not finite; the file is damaged", where);
  }

  static Status check_table(const PackedTensor& tensor, const std::string& where, std::string_view name, int64_t count) {
    TQ_ASSIGN(const TensorView* table, checked_part(tensor, where, name, DType::kF32, count));
    TQ_TRY(check_finite(*table, where, name));
    const float* values = table->as<float>();
    // Sums of coordinates are taken as whole numbers; anything sane is small.
    if (!std::all_of(values, values + count, [](float x) { return std::fabs(x) <= 64; }))
      return bad_input("{}: {} holds a value beyond 64; the file is damaged", where, name);
    return {};
  }

  static std::vector<float> decode_matrix(const e8p::Matrix& m) {
    constexpr int64_t kBand = 16;  // columns whose parts of a row are read at once
    std::vector<float> out(static_cast<size_t>(m.rows * m.columns)), band(static_cast<size_t>(kBand * m.rows));
    e8p::decode_transformed(m, out.data());
    const e8p::Transform of_row(m.columns), of_column(m.rows);
    for (int64_t r = 0; r < m.rows; ++r) of_row.undo(out.data() + r * m.columns, m.sign);
    for (int64_t first = 0; first < m.columns; first += kBand) {
      const int64_t count = std::min(kBand, m.columns - first);
      for (int64_t r = 0; r < m.rows; ++r)
        for (int64_t k = 0; k < count; ++k) band[static_cast<size_t>(k * m.rows + r)] = out[static_cast<size_t>(r * m.columns + first + k)];
      for (int64_t k = 0; k < count; ++k) of_column.undo(band.data() + k * m.rows, m.row_sign);
      for (int64_t r = 0; r < m.rows; ++r) {
        const float scale = m.row_scale ? f16_to_float(m.row_scale[r]) : 1.0f;
        for (int64_t k = 0; k < count; ++k)
          out[static_cast<size_t>(r * m.columns + first + k)] = scale * band[static_cast<size_t>(k * m.rows + r)];
      }
    }
    return out;
  }
};

}  // namespace

const Codec& e8p_codec() {
  static const E8pCodec codec;
  return codec;
}

}  // namespace tq
