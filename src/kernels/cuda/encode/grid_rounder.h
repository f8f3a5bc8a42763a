// Rounds matrices to the grid on the device: the loop of quantize/round.h for a batch of matrices with the same number of columns.
// Same bytes on every run; not those of the CPU, whose search closes each ring at one seam: here a column is encoded in stretches of rows
// side by side, and every junction of two is searched again with both ends fixed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tq::cuda {

// One matrix; all pointers are the host's.
struct RoundMatrix {
  int64_t rows = 0;                 // R
  const uint8_t* rate = nullptr;    // [R] K of each row, 2 to 8
  const float* weight = nullptr;    // [C, R], rotated, column by column
  const float* scale = nullptr;     // [R]; 0: a row of zeros
  const float* feedback = nullptr;  // [C, C] above the diagonal (quantize/objective.h), or null. Matrices may share it
  const float* hessian = nullptr;   // [C, C], or null for the identity
};

struct RoundedMatrix {
  std::vector<uint8_t> bits;             // packed (docs/format.md, 4.2)
  std::vector<double> cross, norm, own;  // [R] w H v, v H v, w H w: what the best scales and the error follow from
};

struct RoundBatch {
  std::vector<RoundMatrix> matrices;  // at least kLeastRows rows each
  int64_t columns = 0;                // C of all
  std::vector<float> taps[9];         // [L] of each rate that occurs, L at most K + 12
  int64_t stretch_rows = 0;           // rows that are encoded side by side; 0: chosen from the batch and the device
};

constexpr int64_t kLeastRows = 64;

// Errors as a line of text; empty: done.
std::string round_on_device(const RoundBatch& batch, std::vector<RoundedMatrix>& out);

}  // namespace tq::cuda
