// Matrices that are multiplied as they are stored: elements, GGUF's blocks.
#pragma once

#include <optional>
#include <span>

#include "base/thread_pool.h"
#include "kernels/cpu/rows/row_kernels.h"
#include "tensor/tensor_view.h"

namespace tq::cpu {

// One matrix [R, C] in a mapped file.
struct RowMatrix {
  RowFormat format = RowFormat::kF32;
  const std::byte* data = nullptr;
  int64_t row_bytes = 0, rows = 0, columns = 0;
  int64_t interleaved_head_dim = 0;  // as in PackedTensor

  const char* name() const;
};

// expert: index into a stack, else 0. Nothing for a tensor that has no row kernel.
std::optional<RowMatrix> row_matrix(const PackedTensor& tensor, int64_t expert);

struct RowJob {
  const RowMatrix* matrix = nullptr;
  const float* bias = nullptr;
  float* output = nullptr;  // [T, R]
};

// Memory of row_linear; grows and stays.
struct RowWorkspace {
  Buffer<int16_t> values;
  Buffer<float> scale, sums16, sums32;
};

// input: [T, C], T <= kRowTokens; all jobs read it. One dispatch of the threads; results do not depend on how many there are.
void row_linear(std::span<const RowJob> jobs, const float* input, int64_t tokens, Isa isa, ThreadPool& threads, RowWorkspace& workspace);

}  // namespace tq::cpu
