// The order of rows where the two halves of a head lie interleaved (PackedTensor::interleaved_head_dim).
#pragma once

#include <cstdint>

namespace tq {

// Where a row of the model lies. head_dim: even; 0: in order.
inline int64_t stored_row(int64_t logical, int64_t head_dim) {
  if (head_dim == 0) return logical;
  const int64_t inside = logical % head_dim, half = head_dim / 2;
  return logical - inside + 2 * (inside % half) + inside / half;
}

// The inverse.
inline int64_t logical_row(int64_t stored, int64_t head_dim) {
  if (head_dim == 0) return stored;
  const int64_t inside = stored % head_dim;
  return stored - inside + inside / 2 + inside % 2 * (head_dim / 2);
}

}  // namespace tq
