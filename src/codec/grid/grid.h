// The superposition trellis: w'[r, k] = s_r * sum_j c_j b_j(r, k), b_j the j-th newest bit (as +-1) of column k's string at row r.
// W' = W diag(sign) Had is the matrix in the rotated basis of its input (design: the grid, sections 1 and 2).
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "codec/codec.h"
#include "codec/grid/layout.h"

namespace tq::grid {

// The taps of one rate, c[0] the newest bit's. Empty: the rate is not used.
using Taps = std::vector<float>;
using TapsByRate = std::array<Taps, kMaxRate + 1>;

// A stored matrix, opened for reading. Parts of a grid tensor [R, C]:
//   "bits"       U8  [Layout::bytes()]
//   "row_scale"  F16 [R]
//   "rates"      U8  [ceil(R / 32)]
//   "sign"       U8  [ceil(C / 8)]   bit i of byte j: column 8 j + i is negated; shared by all linears of a tap point
//   "taps.K.L"   F32 [L]             for every rate K that occurs; shared by the file
//   "cut"        F64 [3]             in memory alone: plane rows before the first row's own; rate() and rows of what it was cut from
//   "activation_bits" U8 [1]         8 or 15, optional: how finely the rotated input should be rounded for products in integers
// A stack of experts [E, R, C] has one matrix after another in "bits", "row_scale" and "rates"; experts may differ in their rates, so
// also in the size of their bits. "sign" and the taps are shared by the stack.
struct Matrix {
  Layout layout;
  const uint8_t* bits = nullptr;
  const uint16_t* row_scale = nullptr;  // f16
  const uint8_t* sign = nullptr;
  TapsByRate taps;
  int activation_bits = 0;  // 8 or 15; 0: the file does not say
  double mean_rate = 0;     // of the whole matrix, where this one was cut from it; else 0
  int64_t whole_rows = 0;   // the same

  // What decides how it is multiplied, so that parts are as the whole is: bits a weight, and rows.
  int64_t all_rows() const { return whole_rows > 0 ? whole_rows : layout.rows; }
  double rate() const { return mean_rate > 0 ? mean_rate : static_cast<double>(layout.plane_rows) / static_cast<double>(layout.rows); }
};

// Trusts a validated tensor. expert: index into a stack, 0 otherwise.
Matrix open(const PackedTensor& tensor, int64_t expert = 0);

// Codec::cut_rows. The plane rows that windows take of the rows before the first lie before its own; those of the first rows of a matrix
// are copied, since there the ring closes.
void cut_rows(const PackedTensor& tensor, int64_t expert, int64_t begin, int64_t count, PackedTensor& out);

// The spelling of "taps.K.L". parse: false for every other name, and for a rate or window out of range.
std::string taps_name(int rate, int window);
bool parse_taps_name(std::string_view name, int& rate, int& window);

// The code of the file format: rows [begin, begin + count) of W' (rotated basis), out [count, C]. Scalar.
// The value is (((+-c_0) +- c_1) …) in float in the order of the taps, then times the scale.
void decode_rotated(const Matrix& matrix, int64_t begin, int64_t count, float* out);

// The size of the blocks that the Hadamard transform works on: min(256, largest power of two that divides C).
int64_t hadamard_block(int64_t columns);
// In place on each of `count` rows [C]: x' = Had(sign * x), orthonormal, Sylvester order. sign: packed bits as above.
void rotate(float* rows, int64_t count, int64_t columns, const uint8_t* sign);
// The inverse: x = sign * Had(x').
void unrotate(float* rows, int64_t count, int64_t columns, const uint8_t* sign);

}  // namespace tq::grid
