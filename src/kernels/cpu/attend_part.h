// What the ways to compute attention share.
#pragma once

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/kv_row.h"

namespace tq::cpu {

// The part of the arguments that is one stretch's: query and output begin at its first row.
struct Part : AttendArgs {
  Part(const AttendArgs& args, const Stretch& of, int64_t first_row)
      : AttendArgs(args), stretch(of), tokens(of.tokens), first_position(of.first_position) {
    query += first_row * stride;
    output += first_row * heads * kv.head_dim;
  }
  int64_t row_at(int64_t head, int64_t position) const { return kv_row_at(kv, stretch, head, position); }

  const Stretch& stretch;
  int64_t tokens, first_position;
};

// The first position that a token sees.
inline int64_t first_seen(const Part& args, int64_t position) {
  return args.window > 0 ? std::max<int64_t>(0, position + 1 - args.window) : 0;
}

inline float* grow(Buffer<float>& buffer, int64_t count) {
  if (buffer.size() < static_cast<size_t>(count)) buffer = Buffer<float>::uninitialized(static_cast<size_t>(count));
  return buffer.data();
}

// Heads of keys and values that are unpacked together, of `floats` each.
inline int64_t heads_at_once(int64_t floats, int64_t kv_heads) {
  constexpr int64_t kMost = 16 << 20;
  return std::clamp<int64_t>(kMost / floats, 1, kv_heads);
}

}  // namespace tq::cpu
