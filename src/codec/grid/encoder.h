// The encoder of the superposition trellis: Viterbi down one column, closed to a ring (design: the grid, section 4).
#pragma once

#include <cstdint>
#include <memory>

#include "base/cpu.h"
#include "codec/grid/grid.h"

namespace tq::grid {

// Finds, for one column, the ring string that minimises sum_r weight[r] * (target[r] - value[r])^2 with value[r] = sum_j c_j b_j(r).
// The best ring under one approximation: the state at the seam is that of the best open string over the seam_rows rows before it and as
// many behind it; given that state, the string is optimal. One object is one thread's workspace; results are the same for every thread
// count, every order of the columns and (but for double rounding in the generic kernel) every instruction set.
class ColumnEncoder {
 public:
  // taps: a table of L >= K values for each rate that occurs. seam_rows below 24 count as 24. Keeps copies of what it needs.
  // Workspace: 4 * 2^(L - K) bytes a row for 512 rows; doubled when two survivors have not merged within that, up to all rows.
  ColumnEncoder(const Layout& layout, const TapsByRate& taps, Isa isa = best_isa(), int seam_rows = 48);
  ~ColumnEncoder();
  ColumnEncoder(ColumnEncoder&&) noexcept;

  // target, weight: [R], in units of the row's scale: target = w' / s_r, weight = s_r^2 g_r. bits: [plane_rows] 0 or 1 in string order.
  // value: [R], exactly what decode_rotated yields for a scale of 1.
  // weight 0: the row costs nothing and its bits serve its neighbours. weight < 0: a row of scale 0, its bits become 0.
  // Only ratios of weights matter. Targets beyond 8 sum |c| are clamped; not-a-number counts as the least target, a weight that is not
  // finite as 0.
  void encode(const float* target, const float* weight, uint8_t* bits, float* value);

  // The same in parts, for several threads with an encoder each. A column is cut at rows whose state is fixed first; then the parts
  // between them are independent of each other. weight: [R], of all columns. The cut costs what the ring's own seam does.
  void set_weights(const float* weight);
  // The state before `row`, from the seam_rows rows on either side of it. R >= 2 seam_rows.
  uint32_t state_before(const float* target, int64_t row);
  struct Part {
    int64_t begin, end;               // rows
    uint32_t state_begin, state_end;  // before `begin` and before `end`
  };
  // Writes the bits and values of the part's rows alone.
  void encode_part(const float* target, const Part& part, uint8_t* bits, float* value);

  // Trellis branches that one call of encode evaluates.
  double branches() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// bits [plane_rows] of one column into the packed array [Layout::bytes()], whose padding is zero. Different columns touch different bytes,
// so threads may store different columns at the same time.
void store_column(const Layout& layout, int64_t column, const uint8_t* bits, uint8_t* packed);
// Its plane rows [begin, end) alone; ranges that begin at multiples of 128 touch different bytes too.
void store_plane_rows(const Layout& layout, int64_t column, int64_t begin, int64_t end, const uint8_t* bits, uint8_t* packed);
// value[r] = sum_j c_j b_j(r) of a ring of bits [plane_rows], summed in float in the order of the taps.
void ring_values(const Layout& layout, const TapsByRate& taps, const uint8_t* bits, float* value);

}  // namespace tq::grid
