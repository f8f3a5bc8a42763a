// One stored key or value row: its rounding and its reading, as every backend must do them (KvView in backend.h).
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "base/float16.h"
#include "base/rounding_scale.h"
#include "kernels/backend.h"

namespace tq {

// kQ8: scale = max |x| / 127, nearest even; the scale stands after the int8 (padded to 4).
inline void store_kv_row(KvType type, const float* values, int64_t head_dim, std::byte* row) {
  if (type == KvType::kF32) {
    std::memcpy(row, values, static_cast<size_t>(head_dim) * sizeof(float));
  } else if (type == KvType::kF16) {
    auto* out = reinterpret_cast<uint16_t*>(row);
    for (int64_t i = 0; i < head_dim; ++i) out[i] = float_to_f16(values[i]);
  } else {
    const RoundingScale unit = rounding_scale(largest_magnitude(values, head_dim), 127.0f);
    auto* out = reinterpret_cast<int8_t*>(row);
    for (int64_t i = 0; i < head_dim; ++i)
      out[i] = unit.is_finite ? static_cast<int8_t>(std::nearbyint(values[i] * unit.inverse)) : int8_t{0};
    std::memcpy(row + (head_dim + 3) / 4 * 4, &unit.scale, sizeof unit.scale);
  }
}

inline void load_kv_row(KvType type, const std::byte* row, int64_t head_dim, float* values) {
  if (type == KvType::kF32) {
    std::memcpy(values, row, static_cast<size_t>(head_dim) * sizeof(float));
  } else if (type == KvType::kF16) {
    const auto* in = reinterpret_cast<const uint16_t*>(row);
    for (int64_t i = 0; i < head_dim; ++i) values[i] = f16_to_float(in[i]);
  } else {
    float scale = 0;
    std::memcpy(&scale, row + (head_dim + 3) / 4 * 4, sizeof scale);
    const auto* in = reinterpret_cast<const int8_t*>(row);
    for (int64_t i = 0; i < head_dim; ++i) values[i] = scale * static_cast<float>(in[i]);
  }
}

// Where the row of a head at a position lies, in bytes from the view's key or value.
inline int64_t kv_row_at(const KvView& kv, const Stretch& stretch, int64_t head, int64_t position) {
  const int64_t index = position >> std::countr_zero(static_cast<uint64_t>(kv.page_tokens));
  const int64_t page = stretch.pages ? stretch.pages[index] : index;
  return ((page * kv.kv_heads + head) * kv.page_tokens + (position & (kv.page_tokens - 1))) * kv_row_bytes(kv.type, kv.head_dim);
}

// Calls visit(row, position, stretch) for the rows [begin, end) of a batch.
template <typename Visit>
void for_rows(std::span<const Stretch> stretches, int64_t begin, int64_t end, const Visit& visit) {
  int64_t first = 0;
  for (const Stretch& stretch : stretches) {
    const int64_t stop = std::min(end, first + stretch.tokens);
    for (int64_t row = std::max(begin, first); row < stop; ++row) visit(row, stretch.first_position + row - first, stretch);
    first += stretch.tokens;
  }
}

}  // namespace tq
