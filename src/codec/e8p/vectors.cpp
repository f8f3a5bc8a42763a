// The tables of E8P, and the search of the nearest code.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "codec/e8p/e8p.h"

namespace tq::e8p {
namespace {

constexpr float kShift = 0.25f;

// All vectors whose coordinates are values[digit], digits in falling lexicographic order of the values.
template <typename Use>
void each_vector(std::span<const float> values, const Use& use) {
  Vector v{};
  const auto base = values.size();
  size_t count = 1;
  for (int64_t i = 0; i < kWidth; ++i) count *= base;
  for (size_t n = count; n-- > 0;) {
    size_t rest = n;
    for (size_t i = kWidth; i-- > 0; rest /= base) v[i] = values[rest % base];
    use(v);
  }
}

float squared_length(const Vector& v) {
  float sum = 0;
  for (const float x : v) sum += x * x;
  return sum;
}

void append(Table& table, const Vector& v) { table.insert(table.end(), v.begin(), v.end()); }

float sum_of(const float* entry) {
  float sum = 0;
  for (int64_t i = 0; i < kWidth; ++i) sum += entry[i];
  return sum;
}
bool is_odd(const float* entry) { return std::lround(sum_of(entry)) % 2 != 0; }

// The best entry for |y| where an odd or even number of signs is minus: the one that maximises s.|y| - |s|^2 / 2, less twice the smallest
// s_i |y_i| where the parity of the signs is wrong for it.
struct Choice {
  size_t entry = 0;
  float gain = -HUGE_VALF;
};
Choice best_entry(const Book& book, const Vector& magnitude, bool has_odd_signs) {
  float dot[kEntries], least[kEntries];
  for (size_t i = 0; i < kWidth; ++i) {
    const float* coordinate = book.coordinates.data() + i * kEntries;
    for (size_t e = 0; e < kEntries; ++e) {
      const float product = coordinate[e] * magnitude[i];
      dot[e] = i == 0 ? product : dot[e] + product;
      least[e] = i == 0 || product < least[e] ? product : least[e];
    }
  }
  Choice best;
  for (size_t e = 0; e < kEntries; ++e) {
    const float gain = dot[e] - book.half_length[e] - (book.is_odd[e] != has_odd_signs ? 2 * least[e] : 0.0f);
    if (gain > best.gain) best = {e, gain};
  }
  return best;
}

}  // namespace

Table absolute_table() {
  constexpr float kValues[] = {0.5f, 1.5f, 2.5f};
  Table short_ones, long_ones;
  each_vector(kValues, [&](const Vector& v) {
    if (squared_length(v) <= 10) append(short_ones, v);
    else if (squared_length(v) == 12 && *std::max_element(v.begin(), v.end()) < 2) append(long_ones, v);
  });
  short_ones.insert(short_ones.end(), long_ones.begin(),
                    long_ones.begin() + static_cast<int64_t>(kEntries * kWidth - static_cast<int64_t>(short_ones.size())));
  return short_ones;
}

Table residual_table() {
  Table table;
  append(table, {});
  constexpr float kWhole[] = {-1.0f, 0.0f, 1.0f}, kHalves[] = {-0.5f, 0.5f};
  each_vector(kWhole, [&](const Vector& v) {
    if (squared_length(v) == 2) append(table, v);
  });
  each_vector(kHalves, [&](const Vector& v) {
    if (std::count(v.begin(), v.end(), -0.5f) % 2 == 0) append(table, v);
  });
  for (size_t i = 0; i < 15; ++i) {
    Vector v{};
    v[i % kWidth] = i < kWidth ? 2.0f : -2.0f;
    append(table, v);
  }
  TQ_CHECK(table.size() == static_cast<size_t>(kEntries * kWidth));
  return table;
}

Book::Book(Table table) : entries(std::move(table)), coordinates(entries.size()), half_length(kEntries), is_odd(kEntries) {
  for (size_t e = 0; e < kEntries; ++e) {
    const float* entry = entries.data() + e * kWidth;
    is_odd[e] = e8p::is_odd(entry);
    for (size_t i = 0; i < kWidth; ++i) {
      coordinates[i * kEntries + e] = entry[i];
      half_length[e] += 0.5f * entry[i] * entry[i];
    }
  }
}

Vector decode(const float* table, uint16_t code) {
  const float* entry = table + (code & 255) * kWidth;
  bool is_last_negative = is_odd(entry);  // the number of minus signs has the parity of the sum
  Vector out{};
  for (size_t i = 0; i < kWidth; ++i) {
    const bool is_negative = i + 1 < kWidth ? (code >> (8 + i) & 1) != 0 : is_last_negative;
    is_last_negative ^= is_negative;
    out[i] = (is_negative ? -entry[i] : entry[i]) + (code >> 15 ? kShift : -kShift);
  }
  return out;
}

uint16_t encode(const Book& absolute, const Vector& x) {
  uint16_t best_code = 0;
  float best = HUGE_VALF;
  for (const bool is_up : {false, true}) {
    Vector magnitude{};
    std::array<bool, kWidth> negative{};
    bool has_odd_signs = false;
    float length = 0;
    for (size_t i = 0; i < kWidth; ++i) {
      const float y = x[i] - (is_up ? kShift : -kShift);
      negative[i] = y < 0, magnitude[i] = std::fabs(y), length += y * y;
      has_odd_signs ^= negative[i];
    }
    const Choice choice = best_entry(absolute, magnitude, has_odd_signs);
    const float error = length - 2 * choice.gain;
    if (!(error < best)) continue;
    best = error;
    const float* entry = absolute.entries.data() + choice.entry * kWidth;
    if (absolute.is_odd[choice.entry] != has_odd_signs) {
      size_t flipped = 0;
      for (size_t i = 1; i < kWidth; ++i)
        if (entry[i] * magnitude[i] < entry[flipped] * magnitude[flipped]) flipped = i;
      negative[flipped] = !negative[flipped];
    }
    unsigned code = static_cast<unsigned>(choice.entry) | (is_up ? 1u << 15 : 0u);
    for (size_t i = 0; i + 1 < kWidth; ++i) code |= (negative[i] ? 1u : 0u) << (8 + i);
    best_code = static_cast<uint16_t>(code);
  }
  return best_code;
}

uint8_t encode_residual(const Book& residual, const Vector& x) {
  float gain[kEntries];
  for (size_t e = 0; e < kEntries; ++e) gain[e] = -residual.half_length[e];
  for (size_t i = 0; i < kWidth; ++i)
    for (size_t e = 0; e < kEntries; ++e) gain[e] += residual.coordinates[i * kEntries + e] * x[i];
  return static_cast<uint8_t>(std::max_element(gain, gain + kEntries) - gain);
}

Stages stages_of(int bits) {
  switch (bits) {
    case 2: return {1.03f, 0.0f};
    case 3: return {0.98f, 2.04f};
    default: return {1.03f, 3.45f};
  }
}

}  // namespace tq::e8p
