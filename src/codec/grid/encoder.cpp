#include "codec/grid/encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "codec/grid/encoder_tables.h"

namespace tq::grid {
namespace {

constexpr float kUnreachable = 1e30f;
constexpr int kExhaustiveBits = 12;     // rings up to this length that are shorter than a state are searched in full
constexpr int64_t kTraceRows = 128;     // a trace back after so many rows
constexpr int64_t kBufferRows = 512;    // metrics of so many rows at first; survivors may part for more than 300
constexpr int64_t kNormaliseRows = 16;  // metrics grow by less than the squared clamp a row, so float keeps its precision

const Kernel& kernel_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return avx2_kernel();
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
    case Isa::kAmx: return avx512_kernel();
#endif
    default: return generic_kernel();
  }
}

}  // namespace

struct ColumnEncoder::State {
  State(const Layout& layout_, const TapsByRate& taps_, Isa isa, int seam_rows_);

  void set_targets(const float* target_, int64_t first, int64_t count);  // around the ring
  void set_weights(const float* weight_);
  // Viterbi over `steps` rows from `first_row` on, around the ring. start, end: the state or -1 for any. Leaves windows[step].
  // state_at: the step after which the state is returned.
  uint32_t run(int64_t first_row, int64_t steps, int64_t start, int64_t end, int64_t state_at);
  bool try_run(int64_t first_row, int64_t steps, int64_t start, int64_t end);
  bool trace_back(int64_t first_row, int64_t from, int64_t traced, uint32_t state);
  void encode_short_ring(uint8_t* bits, float* value);
  void write_survivor(int64_t begin, int64_t end, uint8_t* bits, float* value) const;  // of the run that started at begin

  const Trellis& trellis(int64_t row) const { return tables[layout.rate[static_cast<size_t>(row)]].trellis; }
  int history_before(int64_t row) const { return history[static_cast<size_t>(row == 0 ? layout.rows - 1 : row - 1)]; }
  float* metrics(int64_t step) { return buffer.data() + static_cast<size_t>((step + 1) % buffer_rows) * row_floats; }
  void forward_any(int64_t row, const float* before, float* after) const;
  uint32_t trace_any(int64_t row, const float* before, uint32_t state) const;
  void reserve(int64_t rows);

  Layout layout;
  TapsByRate taps;
  const Kernel& kernel;
  int64_t seam_rows;
  TablesByRate tables;
  std::vector<uint8_t> history;  // [R] state bits after each row
  int most_history = 0;
  float clamp = 0.0f;
  std::array<std::array<float, 2 * kMaxRate>, kMaxRate + 1> signed_taps{};  // of the K oldest bits: -c, +c

  std::vector<float> target, weight, root_weight;  // [R]
  std::vector<uint8_t> zero;                       // [R] rows that must have zero bits
  std::vector<uint8_t> even, regular;              // [R] the history before and after is the trellis's own; and the bits are free
  Buffer<float> buffer;                            // metrics of the last buffer_rows steps
  int64_t buffer_rows = 0;
  size_t row_floats = 0;
  std::vector<uint32_t> windows;  // [max(R, 2 seam_rows)] of the survivor: the state before and the row's bits
  std::vector<uint32_t> states;   // the same: the state after
  uint32_t met_start = 0;         // where the survivor of the last run started
};

ColumnEncoder::State::State(const Layout& layout_, const TapsByRate& taps_, Isa isa, int seam_rows_)
    : layout(layout_), taps(taps_), kernel(kernel_of(isa)), seam_rows(std::max(seam_rows_, kMaxWindow)) {
  std::array<bool, kMaxRate + 1> used{};
  for (const uint8_t rate : layout.rate) used[rate] = true;
  for (int rate = kMinRate; rate <= kMaxRate; ++rate) {
    const Taps& table = taps[static_cast<size_t>(rate)];
    if (!used[static_cast<size_t>(rate)]) continue;
    TQ_CHECK(static_cast<int>(table.size()) >= rate && static_cast<int>(table.size()) <= kMaxWindow);
    build_tables(rate, table, kernel.lane_bits, tables[static_cast<size_t>(rate)]);
    for (int i = 0; i < rate; ++i) {
      const float tap = table[table.size() - static_cast<size_t>(rate - i)];
      signed_taps[static_cast<size_t>(rate)][static_cast<size_t>(2 * i)] = -tap;
      signed_taps[static_cast<size_t>(rate)][static_cast<size_t>(2 * i + 1)] = tap;
    }
    float sum = 0.0f;
    for (const float tap : table) sum += std::fabs(tap);
    clamp = std::max(clamp, 8.0f * sum);
  }
  history = history_bits(layout, tables);
  most_history = *std::max_element(history.begin(), history.end());
  row_floats = std::max(size_t{16}, size_t{1} << most_history);
  const size_t rows = static_cast<size_t>(layout.rows), steps = std::max(rows, static_cast<size_t>(2 * seam_rows));
  target.resize(rows), root_weight.resize(rows), weight.resize(rows, std::numeric_limits<float>::quiet_NaN()), zero.resize(rows),
      even.resize(rows), regular.resize(rows);
  for (int64_t r = 0; r < layout.rows; ++r)
    even[static_cast<size_t>(r)] = history_before(r) == trellis(r).state_bits && history[static_cast<size_t>(r)] == trellis(r).state_bits;
  windows.resize(steps), states.resize(steps);
  reserve(kBufferRows);
}

void ColumnEncoder::State::reserve(int64_t rows) {
  buffer_rows = std::min(rows, static_cast<int64_t>(windows.size()) + 1);
  buffer = Buffer<float>(static_cast<size_t>(buffer_rows) * row_floats + 16);
}

void ColumnEncoder::State::set_targets(const float* target_, int64_t first, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const auto r = static_cast<size_t>((first + i) % layout.rows);
    const float above = target_[r] > -clamp ? target_[r] : -clamp;  // also for what is not a number
    target[r] = above < clamp ? above : clamp;
  }
}

void ColumnEncoder::State::set_weights(const float* weight_) {
  // Most callers pass the same weights for every column.
  if (std::memcmp(weight.data(), weight_, weight.size() * sizeof(float)) == 0) return;
  std::copy_n(weight_, weight.size(), weight.begin());
  float largest = 0.0f;
  const auto usable = [](float w) { return std::isfinite(w) && w > 0.0f ? w : 0.0f; };
  for (const float w : weight) largest = std::max(largest, usable(w));
  for (size_t r = 0; r < weight.size(); ++r) {
    zero[r] = weight[r] < 0.0f;
    regular[r] = even[r] && !zero[r];
    root_weight[r] = largest > 0.0f ? std::sqrt(usable(weight[r]) / largest) : 0.0f;
  }
}

// Any row: rate, window or history differ from the next row's, or its bits are fixed. Scalar.
void ColumnEncoder::State::forward_any(int64_t row, const float* before, float* after) const {
  const Trellis& t = trellis(row);
  const int out = history[static_cast<size_t>(row)];
  const float rw = root_weight[static_cast<size_t>(row)], goal = target[static_cast<size_t>(row)];
  const uint32_t choices = 1u << (history_before(row) + t.rate - out);
  const uint32_t older_mask = (1u << t.rate) - 1, newer_mask = (1u << t.state_bits) - 1;
  for (uint32_t state = 0; state < 1u << out; ++state) {
    float best = kUnreachable;
    for (uint32_t u = 0; u < choices; ++u) {
      const uint32_t window = u << out | state;
      if (zero[static_cast<size_t>(row)] && (window & older_mask) != 0) continue;
      const float e = rw * (t.newer[window & newer_mask] - goal) + rw * t.older[window >> t.state_bits & older_mask];
      best = std::min(best, (zero[static_cast<size_t>(row)] ? 0.0f : e * e) + before[window >> t.rate]);
    }
    after[state] = best;
  }
}

uint32_t ColumnEncoder::State::trace_any(int64_t row, const float* before, uint32_t state) const {
  const Trellis& t = trellis(row);
  const int out = history[static_cast<size_t>(row)];
  const float rw = root_weight[static_cast<size_t>(row)], goal = target[static_cast<size_t>(row)];
  const uint32_t choices = 1u << (history_before(row) + t.rate - out);
  const uint32_t older_mask = (1u << t.rate) - 1, newer_mask = (1u << t.state_bits) - 1;
  float best = std::numeric_limits<float>::infinity();
  uint32_t best_window = state;
  for (uint32_t u = 0; u < choices; ++u) {
    const uint32_t window = u << out | state;
    if (zero[static_cast<size_t>(row)] && (window & older_mask) != 0) continue;
    const float e = rw * (t.newer[window & newer_mask] - goal) + rw * t.older[window >> t.state_bits & older_mask];
    const float cost = (zero[static_cast<size_t>(row)] ? 0.0f : e * e) + before[window >> t.rate];
    if (cost < best) best = cost, best_window = window;
  }
  return best_window;
}

// Follows the survivor of `state` after step `from` until it meets the path of the trace before, which ended at step `traced`.
// false: the metrics where they part are no longer in the buffer.
bool ColumnEncoder::State::trace_back(int64_t first_row, int64_t from, int64_t traced, uint32_t state) {
  const int64_t oldest = from - buffer_rows + 2;  // needs the metrics of the step before
  int64_t row = (first_row + from) % layout.rows;
  for (int64_t step = from; step >= 0; --step) {
    const size_t i = static_cast<size_t>(step), r = static_cast<size_t>(row);
    if (step <= traced && states[i] == state) return true;
    if (step < oldest) return false;
    const float* before = metrics(step - 1);
    states[i] = state;
    windows[i] = regular[r] ? kernel.trace(trellis(row), target[r], root_weight[r], before, state) : trace_any(row, before, state);
    state = windows[i] >> layout.rate[r];
    row = row == 0 ? layout.rows - 1 : row - 1;
  }
  met_start = state;
  return true;
}

bool ColumnEncoder::State::try_run(int64_t first_row, int64_t steps, int64_t start, int64_t end) {
  const size_t start_states = size_t{1} << history_before(first_row);
  std::fill_n(metrics(-1), start_states, start < 0 ? 0.0f : kUnreachable);
  if (start >= 0) metrics(-1)[start] = 0.0f;
  int64_t traced = -1, row = first_row;
  for (int64_t step = 0; step < steps; ++step, row = row + 1 == layout.rows ? 0 : row + 1) {
    const size_t r = static_cast<size_t>(row), count = size_t{1} << history[r];
    float* after = metrics(step);
    if (regular[r]) kernel.forward(trellis(row), target[r], root_weight[r], metrics(step - 1), after);
    else forward_any(row, metrics(step - 1), after);
    if (step % kNormaliseRows == kNormaliseRows - 1) kernel.normalise(after, static_cast<int64_t>(count));

    const bool last = step == steps - 1;
    if (!last && step - traced < kTraceRows) continue;
    const auto best = static_cast<uint32_t>(std::min_element(after, after + count) - after);
    if (!trace_back(first_row, step, traced, last && end >= 0 ? static_cast<uint32_t>(end) : best)) return false;
    traced = step;
  }
  TQ_CHECK(start < 0 || static_cast<int64_t>(met_start) == start);
  return true;
}

uint32_t ColumnEncoder::State::run(int64_t first_row, int64_t steps, int64_t start, int64_t end, int64_t state_at) {
  while (!try_run(first_row, steps, start, end)) reserve(2 * buffer_rows);  // a buffer of all steps always succeeds
  return states[static_cast<size_t>(state_at)];
}

// The bits of windows, and their values: the sum of the newest S taps is a table, the others follow in order.
void ColumnEncoder::State::write_survivor(int64_t begin, int64_t end, uint8_t* bits, float* value) const {
  for (size_t r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r) {
    const Trellis& t = tables[layout.rate[r]].trellis;
    const float* signed_tap = &signed_taps[layout.rate[r]][0];
    uint32_t window = windows[r - static_cast<size_t>(begin)];
    uint8_t* newest = bits + layout.newest[r];
    float sum = t.newer[window & ((1u << t.state_bits) - 1)];
    for (int i = 0; i < t.rate; ++i) {
      newest[-i] = window >> i & 1;
      sum += signed_tap[2 * i + (window >> (t.state_bits + i) & 1)];
    }
    value[r] = sum;
  }
}

// A ring shorter than a state holds: its strings are few, or the search is not worth more than the open string's last rows.
void ColumnEncoder::State::encode_short_ring(uint8_t* bits, float* value) {
  const int64_t length = layout.plane_rows;
  if (length > kExhaustiveBits) {
    const int64_t before = (seam_rows + layout.rows - 1) / layout.rows * layout.rows;  // whole laps
    run(0, std::min(before, static_cast<int64_t>(windows.size())), -1, -1, 0);
    std::copy_n(windows.begin() + (before - layout.rows), layout.rows, windows.begin());
    write_survivor(0, layout.rows, bits, value);
    return;
  }
  std::vector<uint8_t> trial(static_cast<size_t>(length));
  double best = std::numeric_limits<double>::infinity();
  for (uint32_t string = 0; string < 1u << length; ++string) {
    for (int64_t i = 0; i < length; ++i) trial[static_cast<size_t>(i)] = string >> i & 1;
    double cost = 0.0;
    ring_values(layout, taps, trial.data(), value);
    for (int64_t row = 0; row < layout.rows; ++row) {
      const size_t r = static_cast<size_t>(row);
      const double e = static_cast<double>(root_weight[r]) * (static_cast<double>(value[row]) - static_cast<double>(target[r]));
      cost += e * e;
      for (int i = 0; i < layout.rate[r] && zero[r]; ++i)
        if (trial[static_cast<size_t>(layout.newest[r] - i)]) cost = std::numeric_limits<double>::infinity();
    }
    if (cost < best || string == 0) best = cost, std::copy(trial.begin(), trial.end(), bits);
  }
}

ColumnEncoder::ColumnEncoder(const Layout& layout, const TapsByRate& taps, Isa isa, int seam_rows)
    : state_(std::make_unique<State>(layout, taps, isa, seam_rows)) {}
ColumnEncoder::~ColumnEncoder() = default;
ColumnEncoder::ColumnEncoder(ColumnEncoder&&) noexcept = default;

void ColumnEncoder::encode(const float* target, const float* weight, uint8_t* bits, float* value) {
  State& s = *state_;
  s.set_targets(target, 0, s.layout.rows);
  s.set_weights(weight);
  if (s.layout.plane_rows < s.most_history) {
    s.encode_short_ring(bits, value);
    ring_values(s.layout, s.taps, bits, value);
  } else {
    const int64_t rows = s.layout.rows;
    const int64_t before_seam = (rows - s.seam_rows % rows) % rows;
    const uint32_t seam = s.run(before_seam, 2 * s.seam_rows, -1, -1, s.seam_rows - 1);
    s.run(0, rows, seam, seam, 0);
    s.write_survivor(0, rows, bits, value);
  }
}

void ColumnEncoder::set_weights(const float* weight) { state_->set_weights(weight); }

uint32_t ColumnEncoder::state_before(const float* target, int64_t row) {
  State& s = *state_;
  TQ_CHECK(s.layout.rows >= 2 * s.seam_rows && s.layout.plane_rows >= s.most_history);
  const int64_t first = (row + s.layout.rows - s.seam_rows) % s.layout.rows;
  s.set_targets(target, first, 2 * s.seam_rows);
  return s.run(first, 2 * s.seam_rows, -1, -1, s.seam_rows - 1);
}

void ColumnEncoder::encode_part(const float* target, const Part& part, uint8_t* bits, float* value) {
  State& s = *state_;
  s.set_targets(target, part.begin, part.end - part.begin);
  s.run(part.begin, part.end - part.begin, part.state_begin, part.state_end, 0);
  s.write_survivor(part.begin, part.end, bits, value);
}

double ColumnEncoder::branches() const {
  const Layout& layout = state_->layout;
  double total = 0.0;
  for (int64_t i = 0; i < layout.rows + 2 * state_->seam_rows; ++i)
    total += std::exp2(static_cast<double>(state_->taps[layout.rate[static_cast<size_t>(i % layout.rows)]].size()));
  return total;
}

}  // namespace tq::grid
