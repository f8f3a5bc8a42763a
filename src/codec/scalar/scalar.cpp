#include "codec/scalar/scalar.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/float16.h"

namespace tq::scalar {

int64_t row_bytes(int64_t columns, int bits) { return (columns * bits + 7) / 8; }

void put(uint8_t* packed, int64_t index, int bits, unsigned code) {
  const int64_t bit = index * bits;
  const unsigned shifted = code << (bit % 8);
  packed[bit / 8] |= static_cast<uint8_t>(shifted);
  if (bit % 8 + bits > 8) packed[bit / 8 + 1] |= static_cast<uint8_t>(shifted >> 8);
}

unsigned get(const uint8_t* packed, int64_t index, int bits) {
  const int64_t bit = index * bits;
  unsigned word = packed[bit / 8];
  if (bit % 8 + bits > 8) word |= static_cast<unsigned>(packed[bit / 8 + 1]) << 8;
  return word >> (bit % 8) & ((1u << bits) - 1);
}

int64_t group_columns(int64_t columns, int64_t wanted) {
  if (wanted == 0) return columns;
  if (columns % wanted == 0) return wanted;
  int64_t group = 64;
  while (columns % group != 0) group /= 2;
  return group;
}

Range min_max_range(float least, float greatest, int bits) {
  least = std::min(least, 0.0f), greatest = std::max(greatest, 0.0f);
  if (least == 0 && greatest == 0) return {};
  const int top = (1 << bits) - 1;
  Range range;
  range.scale = f16_to_float(float_to_f16((greatest - least) / static_cast<float>(top)));
  if (!(range.scale > 0)) return {};
  range.zero = std::clamp(static_cast<int>(std::nearbyint(-least / range.scale)), 0, top);
  return range;
}

Matrix open(const PackedTensor& tensor, int64_t expert) {
  const size_t dims = tensor.shape.size();
  Matrix m;
  m.rows = tensor.shape[dims - 2], m.columns = tensor.shape[dims - 1];
  const uint16_t* facts = tensor.part("scalar")->as<uint16_t>() + 2 * expert;
  m.bits = facts[0];
  m.group = facts[1];
  m.codes = tensor.part("codes")->as<uint8_t>() + expert * m.rows * row_bytes(m.columns, m.bits);
  m.scale = tensor.part("scale")->as<uint16_t>() + expert * m.rows * m.groups();
  m.zero = tensor.part("zero")->as<uint8_t>() + expert * row_bytes(m.rows * m.groups(), m.bits);
  m.group_of.resize(static_cast<size_t>(m.columns));
  const TensorView* order = tensor.part("order");
  for (int64_t i = 0; i < m.columns; ++i)
    m.group_of[static_cast<size_t>(order ? order->as<uint16_t>()[expert * m.columns + i] : i)] = i / m.group;
  return m;
}

ScalarRounder::ScalarRounder(Settings settings)
    : settings_(std::move(settings)),
      has_ranges_(!settings_.ranges.empty()),
      ranges_(has_ranges_ ? settings_.ranges
                          : std::vector<Range>(static_cast<size_t>(settings_.rows * (settings_.columns / settings_.group)))),
      codes_(static_cast<size_t>(settings_.rows * row_bytes(settings_.columns, settings_.bits))) {
  TQ_CHECK(settings_.columns % settings_.group == 0 && settings_.group <= kLargestGroup);
  TQ_CHECK(settings_.order.empty() || settings_.columns <= kMostOrdered);
}

void ScalarRounder::begin_group(int64_t first, const float* targets) {
  if (has_ranges_) return;
  const int64_t rows = settings_.rows, groups = settings_.columns / settings_.group;
  std::vector<float> least(static_cast<size_t>(rows)), greatest(static_cast<size_t>(rows));
  for (int64_t k = 0; k < settings_.group; ++k)
    for (int64_t r = 0; r < rows; ++r) {
      const float w = targets[k * rows + r];
      least[static_cast<size_t>(r)] = std::min(least[static_cast<size_t>(r)], w);
      greatest[static_cast<size_t>(r)] = std::max(greatest[static_cast<size_t>(r)], w);
    }
  for (int64_t r = 0; r < rows; ++r)
    ranges_[static_cast<size_t>(r * groups + first / settings_.group)] =
        min_max_range(least[static_cast<size_t>(r)], greatest[static_cast<size_t>(r)], settings_.bits);
}

void ScalarRounder::round(int64_t first, const float* targets, float* values) {
  const int64_t rows = settings_.rows, groups = settings_.columns / settings_.group, group = first / settings_.group;
  const int64_t bytes = row_bytes(settings_.columns, settings_.bits);
  const int64_t column = settings_.order.empty() ? first : settings_.order[static_cast<size_t>(first)];
  for (int64_t r = 0; r < rows; ++r) {
    const Range& range = ranges_[static_cast<size_t>(r * groups + group)];
    const unsigned code = nearest_code(targets[r], range, settings_.bits);
    put(codes_.data() + r * bytes, column, settings_.bits, code);
    values[r] = value_of(code, range);
  }
}

std::vector<RoundedPart> ScalarRounder::finish() {
  const auto count = static_cast<int64_t>(ranges_.size());
  std::vector<uint16_t> scale, order;
  std::vector<uint8_t> zero(static_cast<size_t>(row_bytes(count, settings_.bits)));
  for (int64_t i = 0; i < count; ++i) {
    scale.push_back(float_to_f16(ranges_[static_cast<size_t>(i)].scale));
    put(zero.data(), i, settings_.bits, static_cast<unsigned>(ranges_[static_cast<size_t>(i)].zero));
  }
  const std::vector<uint16_t> facts = {static_cast<uint16_t>(settings_.bits), static_cast<uint16_t>(settings_.group)};
  std::vector<RoundedPart> parts = {part_of("scalar", DType::kU16, facts), part_of("codes", DType::kU8, codes_),
                                    part_of("scale", DType::kF16, scale), part_of("zero", DType::kU8, zero)};
  for (const int64_t column : settings_.order) order.push_back(static_cast<uint16_t>(column));
  if (!order.empty()) parts.push_back(part_of("order", DType::kU16, order));
  return parts;
}

}  // namespace tq::scalar
