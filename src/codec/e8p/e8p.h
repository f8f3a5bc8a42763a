// E8P: eight weights in sixteen bits, a point of the lattice E8 + 1/4 with a small table, for matrices that random Hadamard transforms on
// both sides have made Gaussian. The code of QuIP# (Tseng et al. 2024, section 4), written from the paper; a rival of the grid.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "codec/codec.h"

namespace tq::e8p {

constexpr int64_t kWidth = 8;      // weights of a vector
constexpr int64_t kEntries = 256;  // of a table

using Vector = std::array<float, kWidth>;
using Table = std::vector<float>;  // [256, 8]

// Absolute values of points of D8 + 1/2 (half-odd coordinates, even sum): the 227 of squared length up to 10 and the first 29, in falling
// lexicographic order, of those of 12.
Table absolute_table();
// For the residual of 3 bits: 0, the 240 shortest points of E8, and 15 of squared length 4.
Table residual_table();

// A code: bits 0 to 7 the entry, bit 8 + i the sign of coordinate i = 0 … 6 (the last follows from the parity of the sum), bit 15 the
// shift: + 1/4 if set, else - 1/4.
Vector decode(const float* table, uint16_t code);
// A table made ready for searching.
struct Book {
  explicit Book(Table table);
  Table entries;                   // [256, 8]
  std::vector<float> coordinates;  // [8, 256]
  std::vector<float> half_length;  // [256] |s|^2 / 2
  std::vector<uint8_t> is_odd;     // [256] whether the coordinates sum to an odd number
};
// The code nearest to x.
uint16_t encode(const Book& absolute, const Vector& x);
uint8_t encode_residual(const Book& residual, const Vector& x);

// Stages of a rate of 2, 3 or 4 bits, as the paper's program scales them for a unit Gaussian: codes are of x * scale, those of the second
// stage of what is left times `residual_scale` more. 0: there is no second stage.
struct Stages {
  float scale = 0, residual_scale = 0;
};
Stages stages_of(int bits);

// The orthonormal transform of n = 2^p m values: a Hadamard matrix of order m (Paley's), times Sylvester's of order 2^p. m is 1, 12, 20,
// 28, 36, 76 or 140 if one fits; else only blocks of the largest power of two are transformed. x' = H (sign * x).
class Transform {
 public:
  explicit Transform(int64_t size);
  int64_t order() const { return order_; }                    // m
  std::span<const int8_t> factor() const { return factor_; }  // [m, m] of +-1; empty for m = 1
  void apply(float* values, const uint8_t* sign) const;
  void undo(float* values, const uint8_t* sign) const;  // x = sign * H^T x'

 private:
  void mix(float* values, bool is_transposed) const;
  int64_t size_, order_ = 1, block_ = 1;
  std::span<const int8_t> factor_;
};

// A stored matrix [R, C], C a multiple of 8:
//   "vectors"   U16 [R C / 8]     row by row
//   "residual"  U8 or U16 [R C / 8], 3 and 4 bits: entries of "e8p.residual", or codes like those of "vectors"
//   "stage"     F32 [2]           w' = stage[0] * (vector + stage[1] * residual)
//   "row_sign"  U8 [ceil(R / 8)]  of the output's transform
//   "row_scale" F16 [R]           what its signs have been tuned to, relative to them; missing: ones
//   "sign"      U8 [ceil(C / 8)]  of the input's, shared by the linears of a tap point
//   "e8p.absolute", "e8p.residual" F32 [2048]   the tables, shared by the file
// W = diag(row_scale row_sign) H_R^T W' H_C diag(sign). A stack of experts has the parts of one after another, "row_sign" padded to bytes
// for each. Rows cannot be decoded alone: decode_rows decodes the whole matrix each time.
struct Matrix {
  int64_t rows = 0, columns = 0;
  const uint16_t* vectors = nullptr;
  const TensorView* residual = nullptr;
  int64_t first_vector = 0;  // in the residual's array
  const float* stage = nullptr;
  const uint8_t* row_sign = nullptr;
  const uint16_t* row_scale = nullptr;  // halves; null: ones
  const uint8_t* sign = nullptr;
  const float* absolute = nullptr;
  const float* residual_entries = nullptr;
};
Matrix open(const PackedTensor& tensor, int64_t expert = 0);
// W' [R, C].
void decode_transformed(const Matrix& matrix, float* out);

}  // namespace tq::e8p
