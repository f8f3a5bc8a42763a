// Rows of a matrix as a matrix of their own.
#include <algorithm>

#include "base/check.h"
#include "codec/grid/grid.h"

namespace tq::grid {
namespace {

constexpr int64_t kReach = kMaxWindow - 1;  // plane rows before a row's own that its window may take

struct Cut {
  double facts[3] = {};  // the part "cut"
  Buffer<uint8_t> bits;  // where they had to be copied
  std::shared_ptr<const void> whole;
};

// The first lines of a matrix, behind lines whose last plane rows are the ring's last.
Buffer<uint8_t> behind_ring(const Matrix& matrix, int64_t line_rows) {
  const Layout& layout = matrix.layout;
  const int64_t line_bytes = layout.padded_columns / kLineColumns * kLineBytes;
  auto out = Buffer<uint8_t>::uninitialized(static_cast<size_t>((line_rows + 1) * line_bytes));
  std::fill_n(out.data(), line_bytes, uint8_t{0});
  std::copy_n(matrix.bits, line_rows * line_bytes, out.data() + line_bytes);
  for (int64_t back = 1; back <= kReach; ++back) {
    const int64_t from = ((layout.plane_rows - back) % layout.plane_rows + layout.plane_rows) % layout.plane_rows, to = kLineRows - back;
    for (int64_t k = 0; k < layout.columns; ++k) {
      const int bit = matrix.bits[layout.byte_of(from, k)] >> Layout::bit_of(from) & 1;
      out[static_cast<size_t>(layout.byte_of(to, k))] |= static_cast<uint8_t>(bit << Layout::bit_of(to));
    }
  }
  return out;
}

}  // namespace

void cut_rows(const PackedTensor& tensor, int64_t expert, int64_t begin, int64_t count, PackedTensor& out) {
  const Matrix matrix = open(tensor, expert);
  const Layout& layout = matrix.layout;
  const auto at = static_cast<size_t>(begin);
  const int64_t first = layout.newest[at] - layout.rate[at] + 1, end = layout.newest[static_cast<size_t>(begin + count - 1)] + 1;
  const int64_t line_bytes = layout.padded_columns / kLineColumns * kLineBytes;
  const auto line_rows = [](int64_t plane_rows) { return (plane_rows + kLineRows - 1) / kLineRows; };
  auto cut = std::make_shared<Cut>();
  cut->whole = tensor.owner;
  const uint8_t* bits = nullptr;
  int64_t lead = 0, lines = 0;
  if (first < kReach) {
    TQ_CHECK(first == 0);  // 32 rows have more
    cut->bits = behind_ring(matrix, line_rows(end));
    bits = cut->bits.data(), lead = kLineRows, lines = line_rows(end) + 1;
  } else {
    const int64_t skipped = (first - kReach) / kLineRows;
    bits = matrix.bits + skipped * line_bytes, lead = first - skipped * kLineRows, lines = line_rows(end) - skipped;
  }
  cut->facts[0] = static_cast<double>(lead), cut->facts[1] = matrix.rate(), cut->facts[2] = static_cast<double>(matrix.all_rows());
  const int64_t ranges = (tensor.shape[tensor.shape.size() - 2] + kRateRows - 1) / kRateRows;
  const auto view = [](DType dtype, int64_t size, const void* data) {
    return TensorView{dtype, {size}, static_cast<const std::byte*>(data)};
  };
  for (const PackedTensor::Part& part : tensor.parts) {
    if (part.name == "bits") out.parts.push_back({"bits", view(DType::kU8, lines * line_bytes, bits)});
    else if (part.name == "row_scale") out.parts.push_back({"row_scale", view(DType::kF16, count, matrix.row_scale + begin)});
    else if (part.name == "rates")
      out.parts.push_back(
          {"rates", view(DType::kU8, (count + kRateRows - 1) / kRateRows, part.view.as<uint8_t>() + expert * ranges + begin / kRateRows)});
    else if (part.name != "cut") out.parts.push_back(part);
  }
  out.parts.push_back({"cut", view(DType::kF64, 3, cut->facts)});
  out.owner = std::move(cut);
}

}  // namespace tq::grid
