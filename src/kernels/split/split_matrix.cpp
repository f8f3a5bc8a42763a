#include "kernels/split/split_matrix.h"

#include <algorithm>
#include <numeric>

namespace tq {

std::vector<int64_t> bounds_of(int64_t rows, int64_t unit, size_t parts) {
  const auto count = static_cast<int64_t>(parts), units = (rows + unit - 1) / unit;
  if (units < count) return {};
  std::vector<int64_t> bounds;
  for (int64_t i = 0; i <= count; ++i) bounds.push_back(std::min(rows, units * i / count * unit));
  return bounds;
}

Result<std::unique_ptr<SplitMatrix>> SplitMatrix::prepare(const PackedTensor& tensor, int64_t expert, Regions& regions) {
  const int64_t rows = tensor.shape.size() < 2 ? 0 : tensor.shape[tensor.shape.size() - 2];
  std::unique_ptr<SplitMatrix> matrix(new SplitMatrix(rows, tensor.columns()));
  if (const int64_t unit = cut_unit(tensor); unit > 0) matrix->bounds_ = bounds_of(rows, std::lcm(unit, kUnitRows), regions.parts());
  matrix->parts_.resize(regions.parts());
  for (size_t i = regions.parts(); i-- > 0;) {
    regions.peers().enter(i);
    TQ_ASSIGN(matrix->parts_[i], matrix->prepare_part(tensor, expert, regions.part(i), i));
  }
  return matrix;
}

uint64_t SplitMatrix::bytes() const {
  uint64_t total = 0;
  for (const auto& part : parts_)
    if (total == 0 || is_shared()) total += part->bytes();
  return total;
}

Result<std::unique_ptr<Matrix>> SplitMatrix::prepare_part(const PackedTensor& tensor, int64_t expert, Backend& part, size_t i) const {
  if (!is_shared()) return part.prepare(tensor, expert);
  const int64_t begin = bounds_[i], count = bounds_[i + 1] - begin;
  return part.prepare(cut_rows(tensor, expert, begin, count), 0);
}

}  // namespace tq
