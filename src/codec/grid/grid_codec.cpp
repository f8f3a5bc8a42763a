// The codec "grid": strict checks of a stored tensor, and its decoding into the original basis.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "codec/checked_part.h"
#include "codec/grid/grid.h"

namespace tq {
namespace {

using grid::kMaxRate;

constexpr int64_t kLargestDim = int64_t{1} << 31;  // keeps every product below in 63 bits

struct Stack {
  int64_t experts, rows, columns;
};

Result<Stack> check_shape(const PackedTensor& tensor, const std::string& where) {
  const Shape& shape = tensor.shape;
  const bool positive = std::all_of(shape.begin(), shape.end(), [](int64_t dim) { return dim >= 1 && dim <= kLargestDim; });
  if ((shape.size() != 2 && shape.size() != 3) || !positive)
    return bad_input("{}: the grid stores matrices and stacks of them, the shape is {}", where, shape_text(shape));
  return Stack{shape.size() == 3 ? shape[0] : 1, shape[shape.size() - 2], shape[shape.size() - 1]};
}

Status check_scales(const TensorView& scales, const std::string& where) {
  const uint16_t* scale = scales.as<uint16_t>();
  for (int64_t i = 0; i < scales.count(); ++i)
    if ((scale[i] & 0x7c00u) == 0x7c00u) return bad_input("{}: the scale of row {} is not finite; the file is damaged", where, i);
  return {};
}

// 8 or 15, or not there at all.
Status check_activation_bits(const PackedTensor& tensor, const std::string& where) {
  if (!tensor.part("activation_bits")) return {};
  TQ_ASSIGN(const TensorView* part, checked_part(tensor, where, "activation_bits", DType::kU8, 1));
  if (const int bits = *part->as<uint8_t>(); bits != 8 && bits != 15)
    return bad_input("{}: activation_bits is {}, 8 or 15 were expected", where, bits);
  return {};
}

// One table per rate, each of finite values and long enough for its rate.
Status check_taps(const PackedTensor& tensor, const std::string& where, const std::array<bool, kMaxRate + 1>& used) {
  std::array<bool, kMaxRate + 1> present{};
  for (const PackedTensor::Part& part : tensor.parts) {
    if (!part.name.starts_with("taps.")) continue;
    int rate = 0, window = 0;
    if (!grid::parse_taps_name(part.name, rate, window) || window < rate)
      return bad_input("{}: {} names no rate of 1 to {} with a window of at least as many and at most {} taps", where, part.name, kMaxRate,
                       grid::kMaxWindow);
    if (present[static_cast<size_t>(rate)]) return bad_input("{}: there are two tap tables for rate {}", where, rate);
    present[static_cast<size_t>(rate)] = true;
    if (part.view.dtype != DType::kF32) return bad_input("{}: {} is {}, F32 was expected", where, part.name, dtype_name(part.view.dtype));
    TQ_TRY(check_count(part.view, where, part.name, window));
    const float* taps = part.view.as<float>();
    if (!std::all_of(taps, taps + window, [](float tap) { return std::isfinite(tap); }))
      return bad_input("{}: {} holds a value that is not finite; the file is damaged", where, part.name);
  }
  for (int rate = grid::kMinRate; rate <= kMaxRate; ++rate)
    if (used[static_cast<size_t>(rate)] && !present[static_cast<size_t>(rate)])
      return bad_input("{}: rows have {} bits a weight, but there is no tap table for that rate", where, rate);
  return {};
}

class GridCodec final : public Codec {
 public:
  CodecInfo info() const override { return {.name = "grid", .id = CodecId::kGrid, .version = 1, .cut_unit = grid::kRateRows}; }

  Status validate(const PackedTensor& tensor, const std::string& where) const override {
    TQ_ASSIGN(const Stack stack, check_shape(tensor, where));
    const int64_t ranges = (stack.rows + grid::kRateRows - 1) / grid::kRateRows;
    TQ_ASSIGN(const TensorView* bits, checked_part(tensor, where, "bits", DType::kU8));
    TQ_ASSIGN(const TensorView* rates, checked_part(tensor, where, "rates", DType::kU8, stack.experts * ranges));
    TQ_ASSIGN(const TensorView* scales, checked_part(tensor, where, "row_scale", DType::kF16, stack.experts * stack.rows));
    TQ_TRY(checked_part(tensor, where, "sign", DType::kU8, (stack.columns + 7) / 8));
    TQ_TRY(check_scales(*scales, where));
    TQ_TRY(check_activation_bits(tensor, where));

    std::array<bool, kMaxRate + 1> used{};
    const uint8_t* rate = rates->as<uint8_t>();
    for (int64_t i = 0; i < rates->count(); ++i) {
      if (rate[i] < grid::kMinRate || rate[i] > kMaxRate)
        return bad_input("{}: range {} of rows has {} bits a weight, 1 to {} were expected", where, i, rate[i], kMaxRate);
      used[rate[i]] = true;
    }
    TQ_TRY(check_taps(tensor, where, used));
    TQ_TRY(check_bits(*bits, where, stack, rate));
    return {};
  }

  void decode_rows(const PackedTensor& tensor, int64_t begin, int64_t count, float* out) const override {
    const int64_t rows = tensor.shape[tensor.shape.size() - 2], columns = tensor.columns();
    while (count > 0) {
      const int64_t expert = begin / rows, first = begin % rows, here = std::min(count, rows - first);
      const grid::Matrix matrix = grid::open(tensor, expert);
      grid::decode_rotated(matrix, first, here, out);
      grid::unrotate(out, here, columns, matrix.sign);
      begin += here, count -= here, out += here * columns;
    }
  }

  void cut_rows(const PackedTensor& tensor, int64_t expert, int64_t begin, int64_t count, PackedTensor& out) const override {
    grid::cut_rows(tensor, expert, begin, count, out);
  }

 private:
  static Status check_bits(const TensorView& bits, const std::string& where, const Stack& stack, const uint8_t* rate) {
    const int64_t ranges = (stack.rows + grid::kRateRows - 1) / grid::kRateRows;
    const int64_t lines_across = (stack.columns + grid::kLineColumns - 1) / grid::kLineColumns;
    int64_t left = bits.count();
    for (int64_t e = 0; e < stack.experts && left >= 0; ++e) {
      int64_t plane_rows = 0;
      for (int64_t i = 0; i < ranges; ++i) plane_rows += rate[e * ranges + i] * std::min(grid::kRateRows, stack.rows - i * grid::kRateRows);
      const int64_t lines_down = (plane_rows + grid::kLineRows - 1) / grid::kLineRows;
      if (lines_down > left / grid::kLineBytes / lines_across) left = -1;
      else left -= lines_down * lines_across * grid::kLineBytes;
    }
    if (left != 0)
      return bad_input("{}: bits has {} bytes, which does not fit the shape and the rates; the file is damaged", where, bits.count());
    return {};
  }
};

}  // namespace

const Codec& grid_codec() {
  static const GridCodec codec;
  return codec;
}

}  // namespace tq
