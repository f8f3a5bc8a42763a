// Multiplies packed superposition-trellis matrices without decoding them (design: the grid, sections 2 and 5).
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "codec/grid/grid.h"
#include "kernels/cpu/plane/plane_input.h"
#include "kernels/cpu/plane/plane_kernels.h"
#include "kernels/cpu/plane/product.h"
#include "kernels/cpu/tile/tile_kernels.h"

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
  // What the file says; where it does not, from 5 bits on, since int8 activations would cost more than the rounding of the weights.
  bool wants_high_precision() const { return high_precision_; }
  // Of a rate that some row has.
  const TapTable& tap_table(uint8_t rate) const { return *tap_tables_[rate]; }
  int64_t blocks() const { return matrix_.layout.padded_plane_rows / grid::kLineRows; }

  // z of the blocks [begin, end) for all tokens of the input, [T, padded plane rows].
  void product(const PlaneInput& input, int64_t begin, int64_t end, ProductKernel kernel, float* z) const;
  // Rows [begin, end) of the output from z: the FIR over the taps, the row scale, the bias. output: [T, R].
  void filter(const PlaneInput& input, const float* z, int64_t begin, int64_t end, const PlaneKernels& kernels, const float* bias,
              float* output) const;
  // The first row whose newest bit lies in block b or behind it; rows() for b = blocks().
  int64_t first_row(int64_t block) const { return first_row_[static_cast<size_t>(block)]; }
  // The first row from first_row(block) on whose window lies in block b and those behind it.
  int64_t first_whole_row(int64_t block) const;

 private:
  grid::Matrix matrix_;
  std::vector<int64_t> first_row_;  // [blocks + 1]
  std::array<std::unique_ptr<const TapTable>, grid::kMaxRate + 1> tap_tables_;
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
  std::vector<std::atomic<uint8_t>> seams;
  struct alignas(64) Next {
    std::atomic<int64_t> chunk;
  };
  std::vector<Next> next;  // of each stretch of chunks
};

// All jobs share the input. One dispatch of the threads, whatever the number of jobs; results do not depend on how many threads there are.
void plane_linear(std::span<const PlaneJob> jobs, const PlaneInput& input, Isa isa, ThreadPool& threads, PlaneWorkspace& workspace);

}  // namespace tq::cpu
