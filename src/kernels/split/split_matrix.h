// A matrix whose rows are shared out.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/split/regions.h"

namespace tq {

constexpr int64_t kUnitRows = 32;  // rows are shared out in so many, or more where the codec wants it

// Where each part's begin, and the end [parts + 1], in whole units; empty: too few to be shared out.
std::vector<int64_t> bounds_of(int64_t rows, int64_t unit, size_t parts);

class SplitMatrix final : public Matrix {
 public:
  // Errors: those of the parts, which are entered one after another, the first one last.
  static Result<std::unique_ptr<SplitMatrix>> prepare(const PackedTensor& tensor, int64_t expert, Regions& regions);

  std::string kernel(int64_t tokens) const override {
    return fmt::format("{}, {} parts", parts_[0]->kernel(tokens), bounds_.empty() ? 1 : parts_.size());
  }
  uint64_t bytes() const override;
  bool is_shared() const { return !bounds_.empty(); }
  Shares shares(int64_t tokens) const { return {tokens, rows(), bounds_}; }
  const Matrix* part(size_t i) const { return parts_[i].get(); }

 private:
  using Matrix::Matrix;
  Result<std::unique_ptr<Matrix>> prepare_part(const PackedTensor& tensor, int64_t expert, Backend& part, size_t i) const;

  std::vector<std::unique_ptr<Matrix>> parts_;
  std::vector<int64_t> bounds_;  // of rows; empty: every part has all of them
};

inline const SplitMatrix& matrix_of(const LinearJob& job) { return static_cast<const SplitMatrix&>(*job.matrix); }

}  // namespace tq
