// What a device does for quantization, besides running the model: second moments, what follows from them, and rounding to the grid. Plain
// data and no library's types, so that CUDA sources can include it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace tq {

// One matrix W [R, C]; pointers are the host's unless they are said to be the device's.
struct RoundMatrix {
  int64_t rows = 0;               // R, at least kLeastDeviceRows
  const uint8_t* rate = nullptr;  // [R] K of each row, 2 to 8
  // The weights: rows [first, first + count) in the original basis into out [count, C], called from several threads at once; or `stored`,
  // [R, C], the device's, in the same basis; or another matrix of the batch, before this one, that has the same weights and sign.
  std::function<void(int64_t first, int64_t count, float* out)> read;
  const float* stored = nullptr;
  int64_t same_as = -1;
  const uint8_t* sign = nullptr;  // [ceil(C / 8)] the rotation of the input (codec/grid/grid.h)
  // What it is rounded under (quantize/objective.h); null: the identity. Matrices may share it.
  const float* feedback = nullptr;      // [C, C] above the diagonal
  const float* hessian = nullptr;       // [C, C]
  const double* diagonal = nullptr;     // [C]
  bool is_resident = false;             // feedback and hessian are the device's
  const double* column_cost = nullptr;  // [C], or null
};

// Sums of one row over its columns, q the decoded row before any refit of its scale.
struct RowSums {
  std::vector<double> cross, norm, own;  // [R] w H q, q H q, w H w
};

struct RoundedMatrix {
  std::vector<uint8_t> bits;  // packed (docs/format.md, 4.2)
  std::vector<float> scale;   // [R] before any refit: the root mean square of the row, a half; 0: a row of zeros
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

// sum[C, C] += sum over the tokens of weight_t x_t x_t^T, below and on the diagonal, row-major; what is above it is undefined. The factors
// are rounded to 11 bits, which leaves the sum a Gram matrix.
struct MomentArgs {
  const float* input = nullptr;   // [T, C], the device's
  const float* weight = nullptr;  // [T], the host's, or null: 1
  int64_t tokens = 0, columns = 0;
  float* sum = nullptr;  // [C, C], the device's
};

// sum[C] += sum over the tokens of weight_t (x'_tk - its int8 form)^2 (quantize/activation.h).
struct InputErrorArgs {
  const float* input = nullptr;   // [T, C], the device's, in the original basis
  const float* weight = nullptr;  // [T], the host's, or null: 1
  const uint8_t* sign = nullptr;  // [ceil(C / 8)], the host's
  int64_t tokens = 0, columns = 0;
  double* sum = nullptr;  // [C], the device's
};

// The feedback of LDLQ (quantize/objective.h). Pointers are the host's.
struct FactorArgs {
  const float* hessian = nullptr;  // [C, C], damped
  int64_t columns = 0;
  float* feedback = nullptr;  // [C, C] U[j, k] / U[k, k] above the diagonal of H = U U^T, else zeros
  float* root = nullptr;      // [C] U[k, k]
};

// From sums of second moments to an objective, in the device's memory: the mean, both triangles, rotated, damped and factored.
struct ObjectiveArgs {
  float* hessian = nullptr;   // [C, C], the device's: sums below and on the diagonal; then H' damped
  float* feedback = nullptr;  // [C, C], the device's
  int64_t columns = 0;
  double weight = 1;              // of all tokens: what the sums are divided by
  const uint8_t* sign = nullptr;  // [ceil(C / 8)], the host's
  double damping = 0;             // relative to the mean of the diagonal, raised tenfold until the factorisation exists
};
struct DeviceObjective {
  bool is_zero = false;          // the moment is: but for `zeros`, nothing else is set
  double damping = 0;            // what was added to the diagonal
  double trace = 0;              // before that
  int64_t zeros = 0;             // on the moment's diagonal before it was turned
  std::vector<double> diagonal;  // [C] U[k, k]^2
};

class DeviceQuantizer {
 public:
  virtual ~DeviceQuantizer() = default;
  virtual void second_moment(const MomentArgs& args) = 0;
  virtual void input_error(const InputErrorArgs& args) = 0;
  // In float. May be called from several threads. False: H is not positive definite. Errors as a line of text.
  virtual std::string factor(const FactorArgs& args, bool& is_definite) = 0;
  // Errors as a line of text; args.hessian is then what it was.
  virtual std::string make_objective(const ObjectiveArgs& args, DeviceObjective& out) = 0;
  // The loop of quantize/round.h for matrices of one width. Errors as a line of text; empty: done.
  virtual std::string round(const RoundBatch& batch, std::vector<RoundedMatrix>& out) = 0;
  virtual uint64_t free_bytes() const = 0;
};

}  // namespace tq
