// The rounding loop: bands of columns in order, each rounded by a codec with the fed-back errors of those before it.
#pragma once

#include <functional>
#include <vector>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "codec/grid/grid.h"
#include "codec/rounder.h"
#include "quantize/objective.h"
#include "quantize/rates.h"

namespace tq {

// Rows [first, first + count) of a matrix [R, C], out [count, C].
using RowSource = std::function<void(int64_t first, int64_t count, float* out)>;

// A matrix in the basis and order of its objective, column by column: [C, R].
struct ColumnMatrix {
  int64_t rows = 0, columns = 0;
  Buffer<float> weight;
  Buffer<float> error;  // weight - what the codec decodes; filled by round_columns

  const float* weight_at(int64_t column) const { return weight.data() + column * rows; }
  float* error_at(int64_t column) { return error.data() + column * rows; }
  const float* error_at(int64_t column) const { return error.data() + column * rows; }
};
// change: what is done to a band of rows [count, C] on the way (a rotation, an order). threads may be null.
using RowChange = std::function<void(float* rows, int64_t count)>;
ColumnMatrix read_columns(const RowSource& weight, int64_t rows, int64_t columns, const RowChange& change, ThreadPool* threads);

// The root mean square of each row, [R]: the grid's codes are made for a unit Gaussian.
std::vector<float> row_scales(const ColumnMatrix& matrix);

struct Loss {
  double error = 0;             // tr(E H E^T)
  double energy = 0;            // tr(W H W^T)
  double measured_error = 0;    // tr(E H E^T) without damping: per token of the calibration
  double activation_error = 0;  // what int8 activations add to it
};

// Rounds all columns; with `refit`, scales the decoded rows to what is best under the objective. activation_error: [C] or empty
// (ActivationError). threads: for the products of one large matrix; null: the caller's alone. The same result for any number of threads.
struct LoopRequest {
  const Objective* objective = nullptr;
  std::span<const double> activation_error;
  bool refit = false;
  int passes = 0;  // times that every column is rounded again, given the errors of all others (coordinate descent); refits after each
  ThreadPool* threads = nullptr;
};
Loss round_columns(ColumnMatrix& matrix, Rounder& rounder, const LoopRequest& request);

// Columns order[0], order[1], … of each row, in place.
void put_in_order(float* rows, int64_t count, const std::vector<int64_t>& order);

struct RoundRequest {
  RowSource weight;               // in the original basis
  const void* source = nullptr;   // where they come from: requests of one source have the same weights. Null: another one for each
  const float* stored = nullptr;  // the weights too, [R, C], in a device's memory; or null
  int64_t rows = 0, columns = 0;
  const uint8_t* sign = nullptr;                // the rotation of the tap point
  const Objective* objective = nullptr;         // in the order
  const std::vector<int64_t>* order = nullptr;  // rotated columns in the order of rounding, or null
  std::span<const double> activation_error;     // [C] or empty; not in the order
  std::span<const uint8_t> rates;               // [ceil(R / 32)]
  const grid::TapsByRate* taps = nullptr;
  int passes = 0;
  Isa isa = Isa::kGeneric;
  ThreadPool* threads = nullptr;
};

struct Rounded {
  std::vector<RoundedPart> parts;
  Loss loss;
};

// The same result on every machine of the same instruction set.
Rounded round_to_grid(const RoundRequest& request);

}  // namespace tq
