// Multiplies packed superposition-trellis matrices without decoding them (design: the grid, sections 2 and 5).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "codec/grid/grid.h"
#include "kernels/cpu/plane/plane_input.h"
#include "kernels/cpu/plane/product.h"

namespace tq::cpu {

// One matrix [R, C]: points into the mapped file, adds a table of row ranges.
class PlaneMatrix {
 public:
  explicit PlaneMatrix(grid::Matrix matrix);

  int64_t rows() const { return matrix_.layout.rows; }
  int64_t columns() const { return matrix_.layout.columns; }
  const uint8_t* sign() const { return matrix_.sign; }
  const grid::Matrix& matrix() const { return matrix_; }
  uint64_t bytes() const;
  // From 5 bits on, int8 activations would cost more than the rounding of the weights.
  bool wants_high_precision() const { return high_precision_; }
  int64_t blocks() const { return matrix_.layout.padded_plane_rows / grid::kLineRows; }

  // z of the blocks [begin, end) for all tokens of the input, [T, padded plane rows].
  void product(const PlaneInput& input, int64_t begin, int64_t end, ProductKernel kernel, float* z) const;
  // Rows [begin, end) of the output from z: the FIR over the taps, the row scale, the bias. output: [T, R], rows `stride` apart.
  void filter(const PlaneInput& input, const float* z, int64_t begin, int64_t end, const float* bias, float* output, int64_t stride) const;

 private:
  // Rows of one rate; their bits lie K apart.
  void filter_range(const float* z, float sum, int64_t begin, int64_t end, const float* bias, float* output) const;
  grid::Matrix matrix_;
  bool high_precision_ = false;
};

struct PlaneJob {
  const PlaneMatrix* matrix = nullptr;
  const float* bias = nullptr;
  float* output = nullptr;  // [T, R]
};

// Memory of plane_linear; grows and stays.
struct PlaneWorkspace {
  Buffer<float> z;
};

// All jobs share the input. Two dispatches of the threads, whatever the number of jobs; results do not depend on how many threads there
// are.
void plane_linear(std::span<const PlaneJob> jobs, const PlaneInput& input, Isa isa, ThreadPool& threads, PlaneWorkspace& workspace);

}  // namespace tq::cpu
