// Attention that is shared out by heads: which rows lie so, and what of an operation is a part's own.
#pragma once

#include <optional>
#include <span>

#include "kernels/split/spreads.h"

namespace tq {

// Rows of heads, `stride` floats apart. spread: where they are shared out by the heads of the keys and values that the parts have.
struct HeadRows {
  const float* values;
  int64_t tokens, width, stride;
  std::optional<Spread> spread;
};

class SplitHeads {
 public:
  // Both are to outlive the object.
  SplitHeads(const Regions& regions, const Spreads& spreads) : regions_(regions), spreads_(spreads) {}

  bool are_shared(const KvView& kv) const { return regions_.of(kv.key).kv_heads() != 0; }
  // Values that are shared out as whole heads of this width, rows close up.
  std::optional<Spread> whole(const float* values, int64_t count, int64_t width) const;
  // Rows from a token of a matrix on that is shared out by heads of this size.
  std::optional<Spread> find(const float* values, int64_t tokens, int64_t heads, int64_t head_dim, int64_t stride) const;
  // The same where each part has the heads that belong to its keys and values.
  HeadRows rows(const float* values, std::span<const Stretch> stretches, int64_t heads, const KvView& kv, int64_t stride) const;
  // How attention's output is shared out, as keys and values are; without a value: not at all.
  std::optional<Shares> output(const AttendArgs& args) const;

  // Part i's own of an operation, with that part's stretches. spread, key, value, query: of the rows; null: every part has all of them.
  RotaryArgs own(const RotaryArgs& args, const Spread* spread, std::span<const Stretch> stretches, size_t i) const;
  KvStoreArgs own(const KvStoreArgs& args, const Spread* key, const Spread* value, std::span<const Stretch> stretches, size_t i) const;
  AttendArgs own(const AttendArgs& args, const Spread* query, const std::optional<Shares>& output, std::span<const Stretch> stretches,
                 size_t i) const;

 private:
  float* own_rows(const Spread& spread, const float* values, size_t i) const;
  KvView own_kv(const KvView& kv, size_t i) const;
  int64_t skipped(const KvView& kv, int64_t heads, size_t i) const;

  const Regions& regions_;
  const Spreads& spreads_;
};

}  // namespace tq
