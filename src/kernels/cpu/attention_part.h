// One stretch of an attention's arguments.
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

// The first position that the token at `position` sees. window: of attention, 0: all.
inline int64_t first_seen(int64_t window, int64_t position) { return window > 0 ? std::max<int64_t>(0, position + 1 - window) : 0; }

}  // namespace tq::cpu
