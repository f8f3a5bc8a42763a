// Matrices of the CPU backend: those multiplied as they are stored, grid ones multiplied packed, and the rest through decoded bands.
#pragma once

#include <memory>
#include <optional>

#include "kernels/backend.h"
#include "kernels/cpu/plane/plane_matrix.h"
#include "kernels/cpu/rows/row_matrix.h"
#include "kernels/cpu/simd/kernels.h"

namespace tq::cpu {

class CpuMatrix final : public Matrix {
 public:
  // expert e of a stack, else 0. The tensor is validated.
  CpuMatrix(const PackedTensor& tensor, int64_t expert, Isa isa);
  // One of floats that may be changed, [R, C].
  struct Floats {
    int64_t rows, columns;
    Buffer<float> values;
  };
  CpuMatrix(Floats floats, Isa isa);

  std::string kernel(int64_t tokens) const override;
  uint64_t bytes() const override;
  const PlaneMatrix* planes() const { return planes_ ? &*planes_ : nullptr; }
  float* floats() const { return floats_; }  // null unless they may be changed
  const RowMatrix* stored() const { return stored_ ? &*stored_ : nullptr; }
  // Logical rows [begin, begin + count) in the basis that the product works in (the original one), [count, C].
  void decode(int64_t begin, int64_t count, float* out) const;
  // The same in the rotated basis of a grid matrix.
  void decode_rotated(int64_t begin, int64_t count, float* out) const;

 private:
  PackedTensor tensor_;
  int64_t first_row_;
  Isa isa_;
  float* floats_ = nullptr;
  std::optional<PlaneMatrix> planes_;
  std::optional<RowMatrix> stored_;
};

// Expert e of a stack, else all of a matrix.
CpuMatrix::Floats decoded_floats(const PackedTensor& tensor, int64_t expert, ThreadPool& threads);

// Tokens up to which packed planes are multiplied directly.
constexpr int64_t kPlaneTokens = 8;

}  // namespace tq::cpu
