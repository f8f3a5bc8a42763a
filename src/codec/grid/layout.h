// Where the bits of a superposition-trellis matrix lie. The format (docs/format.md) and every kernel stand on this header.
//
// One bit string runs down each column; row r appends its K_r bits, oldest first. The bits of all columns at one position of the
// string form a plane row; a matrix has sum_r K_r of them. 128 plane rows x 4 columns make a line of 64 bytes: 16 lanes of 4 bytes,
// byte = column, bit j of a byte in lane i = plane row 16 * j + i of the 128. Lines follow each other along the columns, then come
// the next 128 plane rows. Plane rows are padded to 128 and columns to 4 with zero bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tq::grid {

constexpr int64_t kLineRows = 128;   // plane rows of a line
constexpr int64_t kLineColumns = 4;  // columns of a line
constexpr int64_t kLineBytes = 64;
constexpr int64_t kRateRows = 32;            // rows that share a rate
constexpr int64_t kActivationColumns = 256;  // columns of the rotated input that share a scale where it is rounded
constexpr int kMinRate = 1;                  // bits a weight
constexpr int kMaxRate = 8;
constexpr int kMaxWindow = 24;  // taps

struct Layout {
  int64_t rows = 0;               // R
  int64_t columns = 0;            // C
  int64_t plane_rows = 0;         // P = sum of the rows' rates; the ring closes after them
  int64_t padded_plane_rows = 0;  // a multiple of 128
  int64_t padded_columns = 0;     // a multiple of 4
  std::vector<uint8_t> rate;      // [R] K of each row
  std::vector<int64_t> newest;    // [R] plane row of each row's newest bit: the sum of the rates up to and with it, less 1, plus `lead`

  // rates: [ceil(R / 32)], each in [kMinRate, kMaxRate]. lead: plane rows before the first row's, of rows that were cut off.
  Layout(int64_t rows, int64_t columns, std::span<const uint8_t> rates, int64_t lead = 0);

  uint64_t bytes() const { return static_cast<uint64_t>(padded_plane_rows) * static_cast<uint64_t>(padded_columns) / 8; }
  // The byte that holds the bit of (plane row, column), and the bit's number in it.
  int64_t byte_of(int64_t plane_row, int64_t column) const {
    const int64_t line = (plane_row / kLineRows) * (padded_columns / kLineColumns) + column / kLineColumns;
    return line * kLineBytes + (plane_row % 16) * kLineColumns + column % kLineColumns;
  }
  static int bit_of(int64_t plane_row) { return static_cast<int>(plane_row % kLineRows / 16); }
};

// Bits a weight of matrices [rows, C], one after another. rates: [matrices * ceil(rows / 32)].
double mean_rate(std::span<const uint8_t> rates, int64_t rows);

}  // namespace tq::grid
