#include "quantize/objective.h"

#include <algorithm>

#include "codec/grid/grid.h"
#include "quantize/blas.h"

// LAPACK, as OpenBLAS brings it; lapacke.h would need another package for one function.
extern "C" void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);

namespace tq {
namespace {

void transpose(float* matrix, int64_t n) {
  constexpr int64_t kTile = 32;
  for (int64_t i0 = 0; i0 < n; i0 += kTile)
    for (int64_t j0 = 0; j0 <= i0; j0 += kTile)
      for (int64_t i = i0; i < std::min(n, i0 + kTile); ++i)
        for (int64_t j = j0; j < std::min(i, j0 + kTile); ++j) std::swap(matrix[i * n + j], matrix[j * n + i]);
}

// H' = Q H Q^T with Q = Had diag(sign): rows, then columns.
void rotate_both(float* hessian, int64_t n, const uint8_t* sign) {
  grid::rotate(hessian, n, n, sign);
  transpose(hessian, n);
  grid::rotate(hessian, n, n, sign);
}

// out = the mirror image of H at its anti-diagonal, whose lower Cholesky factor is the mirror image of U in H = U U^T.
void mirror(const float* hessian, int64_t n, float* out) { std::reverse_copy(hessian, hessian + n * n, out); }

bool factor(const Buffer<float>& hessian, int64_t n, Buffer<float>& out, std::vector<double>& diagonal) {
  mirror(hessian.data(), n, out.data());
  // Row-major lower is column-major upper: no transposition inside LAPACK.
  const int size = static_cast<int>(n);
  int info = 0;
  spotrf_("U", &size, out.data(), &size, &info);
  if (info != 0) return false;
  std::reverse(out.data(), out.data() + n * n);  // now U[j, k] stands at [j, k], k >= j
  for (int64_t k = 0; k < n; ++k)
    if (!(out[static_cast<size_t>(k * n + k)] > 0)) return false;
  std::vector<float> inverse(static_cast<size_t>(n));
  diagonal.resize(static_cast<size_t>(n));
  for (size_t k = 0; k < inverse.size(); ++k) {
    const float root = out[k * static_cast<size_t>(n) + k];
    inverse[k] = 1.0f / root, diagonal[k] = static_cast<double>(root) * static_cast<double>(root);
  }
  for (int64_t j = 0; j < n; ++j) {
    float* row = out.data() + j * n;
    std::fill(row, row + j + 1, 0.0f);
    for (int64_t k = j + 1; k < n; ++k) row[k] *= inverse[static_cast<size_t>(k)];
  }
  return true;
}

void add_diagonal(Buffer<float>& hessian, int64_t n, float value) {
  for (int64_t i = 0; i < n; ++i) hessian[static_cast<size_t>(i * n + i)] += value;
}

}  // namespace

Objective identity_objective(int64_t columns) {
  Objective objective;
  objective.columns = columns;
  return objective;
}

Objective make_objective(Buffer<float> hessian, int64_t columns, const uint8_t* sign, double damping) {
  use_one_blas_thread();
  double trace = 0;
  for (int64_t i = 0; i < columns; ++i) trace += hessian[static_cast<size_t>(i * columns + i)];
  if (!(trace > 0)) return identity_objective(columns);
  Objective objective;
  objective.columns = columns;
  objective.hessian = std::move(hessian);
  rotate_both(objective.hessian.data(), columns, sign);
  objective.feedback = Buffer<float>::uninitialized(static_cast<size_t>(columns * columns));
  const double mean = trace / static_cast<double>(columns);
  for (double added = 0;; damping *= 10) {
    add_diagonal(objective.hessian, columns, static_cast<float>((damping - added) * mean));
    added = damping;
    objective.damping = damping * mean;
    if (factor(objective.hessian, columns, objective.feedback, objective.diagonal)) return objective;
    TQ_CHECK(damping < 1e6);  // a diagonal that dominates always factors
  }
}

}  // namespace tq
