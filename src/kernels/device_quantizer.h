// What a device does for quantization, besides running the model: second moments, and rounding to the grid. Plain data and no library's
// types, so that CUDA sources can include it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tq {

// One matrix W' [R, C], rotated; all pointers are the host's.
struct RoundMatrix {
  int64_t rows = 0;                     // R, at least kLeastDeviceRows
  const uint8_t* rate = nullptr;        // [R] K of each row, 2 to 8
  const float* weight = nullptr;        // [C, R], column by column
  const float* scale = nullptr;         // [R]; 0: a row of zeros
  const float* feedback = nullptr;      // [C, C] above the diagonal (quantize/objective.h), or null. Matrices may share it
  const float* hessian = nullptr;       // [C, C], or null for the identity. Matrices may share it
  const double* column_cost = nullptr;  // [C], or null
};

// Sums of one row over its columns, q the decoded row before any refit of its scale.
struct RowSums {
  std::vector<double> cross, norm, own;  // [R] w H q, q H q, w H w
};

struct RoundedMatrix {
  std::vector<uint8_t> bits;  // packed (docs/format.md, 4.2)
  RowSums under_hessian, plain;
  std::vector<double> cost;  // [R] sum_k column_cost_k q_k^2; empty without costs
};

struct RoundBatch {
  std::vector<RoundMatrix> matrices;
  int64_t columns = 0;         // C of all
  std::vector<float> taps[9];  // [L] of each rate that occurs, K <= L <= K + 12
  int64_t stretch_rows = 0;    // rows of a column that are encoded side by side; 0: chosen from the batch and the device
};

constexpr int64_t kLeastDeviceRows = 64;
constexpr int kMostDeviceHistory = 12;  // L - K at most

// sum[C, C] += sum over the tokens of weight_t x_t x_t^T, below and on the diagonal, row-major.
struct MomentArgs {
  const float* input = nullptr;   // [T, C], the device's
  const float* weight = nullptr;  // [T], the host's, or null: 1
  int64_t tokens = 0, columns = 0;
  float* sum = nullptr;  // [C, C], the device's
};

// The feedback of LDLQ (quantize/objective.h). Pointers are the host's.
struct FactorArgs {
  const float* hessian = nullptr;  // [C, C], damped
  int64_t columns = 0;
  float* feedback = nullptr;  // [C, C] U[j, k] / U[k, k] above the diagonal of H = U U^T, else zeros
  float* root = nullptr;      // [C] U[k, k]
};

class DeviceQuantizer {
 public:
  virtual ~DeviceQuantizer() = default;
  virtual void second_moment(const MomentArgs& args) = 0;
  // In float. May be called from several threads. False: H is not positive definite. Errors as a line of text.
  virtual std::string factor(const FactorArgs& args, bool& is_definite) = 0;
  // The loop of quantize/round.h for matrices of one width. Errors as a line of text; empty: done.
  virtual std::string round(const RoundBatch& batch, std::vector<RoundedMatrix>& out) = 0;
  virtual uint64_t free_bytes() const = 0;
};

}  // namespace tq
