// One column's bits: between a string and the packed array, and their values by the definition.
#include "codec/grid/encoder.h"

namespace tq::grid {

void store_column(const Layout& layout, int64_t column, const uint8_t* bits, uint8_t* packed) {
  store_plane_rows(layout, column, 0, layout.plane_rows, bits, packed);
}

void store_plane_rows(const Layout& layout, int64_t column, int64_t begin, int64_t end, const uint8_t* bits, uint8_t* packed) {
  for (int64_t p = begin; p < end; ++p) {
    uint8_t& byte = packed[layout.byte_of(p, column)];
    const int bit = Layout::bit_of(p);
    byte = static_cast<uint8_t>((byte & ~(1u << bit)) | static_cast<unsigned>(bits[p] & 1) << bit);
  }
}

void ring_values(const Layout& layout, const TapsByRate& taps, const uint8_t* bits, float* value) {
  // The last kMaxWindow bits before the first row; a short ring is wound several times.
  uint32_t window = 0;
  for (int64_t i = kMaxWindow; i > 0; --i) {
    const int64_t p = ((-i) % layout.plane_rows + layout.plane_rows) % layout.plane_rows;
    window = window << 1 | (bits[p] & 1);
  }
  int64_t p = 0;
  for (int64_t r = 0; r < layout.rows; ++r) {
    for (; p <= layout.newest[static_cast<size_t>(r)]; ++p) window = window << 1 | (bits[p] & 1);
    float sum = 0.0f;
    uint32_t rest = window;
    for (const float tap : taps[layout.rate[static_cast<size_t>(r)]]) {
      sum += rest & 1 ? tap : -tap;
      rest >>= 1;
    }
    value[r] = sum;
  }
}

}  // namespace tq::grid
