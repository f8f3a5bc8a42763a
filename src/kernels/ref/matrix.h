// A matrix of the oracle backend: decoded to float.
#pragma once

#include "kernels/backend.h"

namespace tq::ref {

class RefMatrix final : public Matrix {
 public:
  RefMatrix(int64_t rows, int64_t columns) : Matrix(rows, columns), values(static_cast<size_t>(rows * columns)) {}
  std::string kernel(int64_t) const override { return "ref"; }
  uint64_t bytes() const override { return values.size() * sizeof(float); }
  Buffer<float> values;
  bool is_trainable = false;
};

// Errors: a tensor that is no matrix.
Result<std::unique_ptr<RefMatrix>> decode_matrix(const PackedTensor& tensor, int64_t expert, ThreadPool& threads);

}  // namespace tq::ref
