// A stored grid matrix of random bits, built from the definition, for the tests of the grid.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/float16.h"
#include "base/rng.h"
#include "codec/grid/encoder.h"
#include "codec/grid/grid.h"

namespace tq::grid {

// The inverse of store_column.
inline void load_column(const Layout& layout, int64_t column, const uint8_t* packed, uint8_t* bits) {
  for (int64_t p = 0; p < layout.plane_rows; ++p) bits[p] = packed[layout.byte_of(p, column)] >> Layout::bit_of(p) & 1;
}

struct StoredMatrix {
  int64_t experts, rows, columns;
  std::vector<std::vector<uint8_t>> rates;                    // [E][ranges]
  std::vector<std::vector<std::vector<uint8_t>>> bit_string;  // [E][C][plane_rows]
  TapsByRate taps;
  std::vector<uint8_t> packed, all_rates, sign;
  std::vector<uint16_t> row_scale;
  PackedTensor tensor;  // views of the above

  StoredMatrix(const StoredMatrix&) = delete;
  StoredMatrix(Shape shape, std::vector<std::vector<uint8_t>> rates_, const TapsByRate& taps_, uint64_t seed)
      : experts(shape.size() == 3 ? shape[0] : 1),
        rows(shape[shape.size() - 2]),
        columns(shape.back()),
        rates(std::move(rates_)),
        taps(taps_) {
    Rng rng(seed);
    for (const std::vector<uint8_t>& rate : rates) {
      const Layout layout(rows, columns, rate);
      std::vector<uint8_t> matrix(layout.bytes(), 0);
      auto& strings = bit_string.emplace_back();
      for (int64_t k = 0; k < columns; ++k) {
        auto& bits = strings.emplace_back(static_cast<size_t>(layout.plane_rows));
        for (uint8_t& bit : bits) bit = rng.bits() & 1;
        store_column(layout, k, bits.data(), matrix.data());
      }
      packed.insert(packed.end(), matrix.begin(), matrix.end());
      all_rates.insert(all_rates.end(), rate.begin(), rate.end());
    }
    for (int64_t i = 0; i < (columns + 7) / 8; ++i) sign.push_back(static_cast<uint8_t>(rng.bits()));
    for (int64_t i = 0; i < experts * rows; ++i) row_scale.push_back(float_to_f16(static_cast<float>(0.5 + rng.uniform())));

    tensor.codec = CodecId::kGrid;
    tensor.shape = std::move(shape);
    add("bits", DType::kU8, packed.size(), packed.data());
    add("row_scale", DType::kF16, row_scale.size(), row_scale.data());
    add("rates", DType::kU8, all_rates.size(), all_rates.data());
    add("sign", DType::kU8, sign.size(), sign.data());
    for (int rate = kMinRate; rate <= kMaxRate; ++rate) {
      const Taps& table = taps[static_cast<size_t>(rate)];
      if (!table.empty()) add(taps_name(rate, static_cast<int>(table.size())), DType::kF32, table.size(), table.data());
    }
  }

  void add(std::string name, DType dtype, size_t count, const void* data) {
    tensor.parts.push_back({std::move(name), {dtype, {static_cast<int64_t>(count)}, static_cast<const std::byte*>(data)}});
  }
  PackedTensor::Part& part(std::string_view name) {
    for (PackedTensor::Part& part : tensor.parts)
      if (part.name == name) return part;
    TQ_CHECK(!"a part of that name");
    __builtin_unreachable();
  }

  // W' by the definition, in double: the window of row r is read bit by bit around the ring.
  double rotated(int64_t expert, int64_t row, int64_t column) const {
    const std::vector<uint8_t>& rate = rates[static_cast<size_t>(expert)];
    const std::vector<uint8_t>& bits = bit_string[static_cast<size_t>(expert)][static_cast<size_t>(column)];
    int64_t newest = -1;
    for (int64_t r = 0; r <= row; ++r) newest += rate[static_cast<size_t>(r / 32)];
    double sum = 0.0;
    int64_t p = newest;
    for (const float tap : taps[rate[static_cast<size_t>(row / 32)]]) {
      sum += static_cast<double>(tap) * (bits[static_cast<size_t>(p)] ? 1.0 : -1.0);
      p = p == 0 ? static_cast<int64_t>(bits.size()) - 1 : p - 1;
    }
    return sum * static_cast<double>(f16_to_float(row_scale[static_cast<size_t>(expert * rows + row)]));
  }
};

inline Taps random_taps(int window, Rng& rng) {
  Taps taps(static_cast<size_t>(window));
  for (float& tap : taps) tap = static_cast<float>(rng.gaussian()) * 0.4f;
  return taps;
}

inline std::vector<float> gaussians(int64_t count, Rng& rng) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(rng.gaussian());
  return values;
}

}  // namespace tq::grid
