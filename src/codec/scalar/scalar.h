// Uniform integer codes with a scale and a zero point for each row and group of columns: w = scale * (code - zero). What round to nearest,
// GPTQ and AWQ write; the rotation-free rival of the grid.
#pragma once

#include <cstdint>
#include <vector>

#include "codec/codec.h"
#include "codec/rounder.h"

namespace tq::scalar {

// Parts of a scalar tensor [R, C] with G groups of columns:
//   "scalar"  U16 [2]              bits b of a code, 2 to 8; columns of a group, which divides C (C: one group)
//   "codes"   U8  [R ceil(C b / 8)] row by row, each from a fresh byte; code k in bits [k b, (k + 1) b) of the row, lowest bit first
//   "scale"   F16 [R G]            row by row
//   "zero"    U8  [ceil(R G b / 8)] packed as one long row
//   "order"   U16 [C]              optional: the column in place i belongs to group i / (columns of a group) (act-order); else column i
// A stack of experts has the parts of one after another, "scalar" and "order" [E C] too.
struct Matrix {
  int64_t rows = 0, columns = 0, group = 0;
  int bits = 0;
  const uint8_t* codes = nullptr;
  const uint16_t* scale = nullptr;  // f16
  const uint8_t* zero = nullptr;    // packed
  std::vector<int64_t> group_of;    // [C]
  int64_t groups() const { return columns / group; }
};
// Trusts a validated tensor.
Matrix open(const PackedTensor& tensor, int64_t expert = 0);

// What the arrays' 16 bits hold.
constexpr int64_t kLargestGroup = 65535, kMostOrdered = 65536;  // columns

int64_t row_bytes(int64_t columns, int bits);

void put(uint8_t* packed, int64_t index, int bits, unsigned code);
unsigned get(const uint8_t* packed, int64_t index, int bits);

// Columns of a group: `wanted` if it divides C, else 64 (or the largest power of two below that divides C); 0: all columns.
int64_t group_columns(int64_t columns, int64_t wanted);

// Scale and zero point of a group by its least and greatest weight (0 included), as GPTQ and AWQ choose them: asymmetric, min-max.
// The scale is rounded to f16.
struct Range {
  float scale = 0;
  int zero = 0;
};
Range min_max_range(float least, float greatest, int bits);
// What decoding yields for the code nearest to w.
inline unsigned nearest_code(float w, const Range& range, int bits);
inline float value_of(unsigned code, const Range& range) { return range.scale * static_cast<float>(static_cast<int>(code) - range.zero); }

// Rounds every column to the nearest code. Ranges come from the group's targets when it is reached (GPTQ), or are given.
class ScalarRounder final : public Rounder {
 public:
  struct Settings {
    int64_t rows = 0, columns = 0, group = 0;
    int bits = 4;
    std::vector<int64_t> order;  // column in place i; empty: as it is
    std::vector<Range> ranges;   // [R G] or empty: found from the targets
  };
  // No group beyond kLargestGroup, no order of more than kMostOrdered columns.
  explicit ScalarRounder(Settings settings);

  int64_t columns() const override { return 1; }
  int64_t group() const override { return settings_.group; }
  void begin_group(int64_t first, const float* targets) override;
  void round(int64_t first, const float* targets, float* values) override;
  std::vector<RoundedPart> finish() override;

 private:
  Settings settings_;
  bool has_ranges_;
  std::vector<Range> ranges_;  // [R G]
  Buffer<uint8_t> codes_;
};

inline unsigned nearest_code(float w, const Range& range, int bits) {
  if (!(range.scale > 0)) return static_cast<unsigned>(range.zero);
  const float rounded = (w / range.scale + 12582912.0f) - 12582912.0f + static_cast<float>(range.zero);  // ties to even
  const float top = static_cast<float>((1 << bits) - 1);
  return static_cast<unsigned>(rounded > 0 ? (rounded < top ? rounded : top) : 0.0f);
}

}  // namespace tq::scalar
