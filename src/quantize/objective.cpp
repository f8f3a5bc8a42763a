#include "quantize/objective.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/blas.h"
#include "codec/grid/grid.h"

// LAPACK, as OpenBLAS brings it; lapacke.h would need another package for one function.
extern "C" void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);

namespace tq {
namespace {

constexpr int64_t kTile = 32;

// Rows [first, first + kTile) below the diagonal change places with columns.
void transpose_tiles(float* matrix, int64_t n, int64_t first) {
  for (int64_t j0 = 0; j0 <= first; j0 += kTile)
    for (int64_t i = first; i < std::min(n, first + kTile); ++i)
      for (int64_t j = j0; j < std::min(i, j0 + kTile); ++j) std::swap(matrix[i * n + j], matrix[j * n + i]);
}

void transpose(float* matrix, int64_t n, ThreadPool* threads) {
  run_on(threads, (n + kTile - 1) / kTile, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) transpose_tiles(matrix, n, tile * kTile);
  });
}

// out = the mirror image of H at its anti-diagonal, whose lower Cholesky factor is the mirror image of U in H = U U^T.
void mirror(const float* hessian, int64_t n, float* out) { std::reverse_copy(hessian, hessian + n * n, out); }

// feedback[j, K] = U[j, K] U[K, K]^-1 for every band K of columns; zeros up to the band's own rows. Backwards in place.
void normalise_bands(Buffer<float>& upper, int64_t n, int64_t band) {
  std::vector<float> inverse(static_cast<size_t>(n));
  for (int64_t k = 0; k < n; ++k) inverse[static_cast<size_t>(k)] = 1.0f / upper[static_cast<size_t>(k * n + k)];
  for (int64_t j = 0; j < n; ++j) {
    float* row = upper.data() + j * n;
    for (int64_t first = (j / band + 1) * band; first < n; first += band)
      for (int64_t k = first; k < std::min(n, first + band); ++k) {
        float sum = row[k];
        for (int64_t i = first; i < k; ++i) sum -= row[i] * upper[static_cast<size_t>(i * n + k)];
        row[k] = sum * inverse[static_cast<size_t>(k)];
      }
  }
  for (int64_t j = 0; j < n; ++j) std::fill_n(upper.data() + j * n, std::min(n, (j / band + 1) * band), 0.0f);
}

// Whether the device had an answer.
bool factor_on(DeviceQuantizer& device, const Buffer<float>& hessian, int64_t n, Objective& out, bool& is_definite) {
  std::vector<float> root(static_cast<size_t>(n));
  if (!device.factor({hessian.data(), n, out.feedback.data(), root.data()}, is_definite).empty()) return false;
  out.diagonal.clear();
  for (const float each : root) {
    is_definite = is_definite && each > 0;
    out.diagonal.push_back(static_cast<double>(each) * static_cast<double>(each));
  }
  return true;
}

bool factor(const Buffer<float>& hessian, int64_t n, int64_t band, Objective& out) {
  mirror(hessian.data(), n, out.feedback.data());
  // Row-major lower is column-major upper: no transposition inside LAPACK.
  const int size = static_cast<int>(n);
  int info = 0;
  spotrf_("U", &size, out.feedback.data(), &size, &info);
  if (info != 0) return false;
  std::reverse(out.feedback.data(), out.feedback.data() + n * n);  // now U[j, k] stands at [j, k], k >= j
  out.diagonal.resize(static_cast<size_t>(n));
  for (int64_t k = 0; k < n; ++k) {
    const double root = static_cast<double>(out.feedback[static_cast<size_t>(k * n + k)]);
    if (!(root > 0)) return false;
    out.diagonal[static_cast<size_t>(k)] = root * root;
  }
  normalise_bands(out.feedback, n, band);
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

Objective factored_objective(Buffer<float> hessian, int64_t columns, double damping, int64_t band, DeviceQuantizer* device) {
  use_one_blas_thread();
  const double sum = trace(hessian, columns);
  Objective objective = identity_objective(columns);
  if (sum <= 0) return objective;
  objective.trace = sum;
  if (!std::isfinite(sum)) return objective;
  objective.hessian = std::move(hessian);
  objective.feedback = Buffer<float>::uninitialized(static_cast<size_t>(columns * columns));
  const double mean = sum / static_cast<double>(columns);
  for (double added = 0;; damping *= 10) {
    add_diagonal(objective.hessian, columns, static_cast<float>((damping - added) * mean));
    added = damping;
    objective.damping = damping * mean;
    bool is_definite = false;
    if (!device || band != 1 || !factor_on(*device, objective.hessian, columns, objective, is_definite))
      is_definite = factor(objective.hessian, columns, band, objective);
    if (is_definite) return objective;
    TQ_CHECK(damping < 1e6);  // a diagonal that dominates always factors
  }
}

std::optional<Objective> objective_on_device(Memory& sum, double weight, int64_t columns, const uint8_t* sign, double damping,
                                             Backend& device) {
  auto feedback = device.allocate(static_cast<uint64_t>(columns * columns) * sizeof(float));
  if (!feedback) return std::nullopt;
  DeviceObjective made;
  const std::string error = device.quantizer()->make_objective({.hessian = sum.as<float>(),
                                                                .feedback = feedback->as<float>(),
                                                                .columns = columns,
                                                                .weight = weight,
                                                                .sign = sign,
                                                                .damping = damping},
                                                               made);
  if (!error.empty()) return std::nullopt;
  Objective objective = identity_objective(columns);
  objective.dead = made.zeros;
  objective.trace = made.trace;
  if (made.is_zero) return objective;
  objective.damping = made.damping, objective.diagonal = std::move(made.diagonal);
  objective.device_hessian = std::move(sum), objective.device_feedback = std::move(*feedback);
  return objective;
}

double trace(const Buffer<float>& hessian, int64_t columns) {
  double sum = 0;
  for (int64_t i = 0; i < columns; ++i) sum += static_cast<double>(hessian[static_cast<size_t>(i * columns + i)]);
  return sum;
}

int64_t dead_inputs(const Buffer<float>& hessian, int64_t columns) {
  int64_t count = 0;
  for (int64_t k = 0; k < columns; ++k) count += hessian[static_cast<size_t>(k * (columns + 1))] == 0.0f;
  return count;
}

bool is_rank_one(const Objective& objective) {
  constexpr double kOthers = 0.02;  // of all other eigenvalues, in units of the damping; floats leave some thousandths
  if (objective.diagonal.empty() || objective.columns < 2) return false;
  double excess = -std::log1p(objective.trace / objective.damping);
  for (const double each : objective.diagonal) excess += std::log(each / objective.damping);
  return excess < kOthers;
}

void rotate_hessian(Buffer<float>& hessian, int64_t columns, const uint8_t* sign, ThreadPool* threads) {
  const auto rotate_rows = [&] {
    run_on(threads, columns, kTile,
           [&](int64_t begin, int64_t end, int) { grid::rotate(hessian.data() + begin * columns, end - begin, columns, sign); });
  };
  rotate_rows();
  transpose(hessian.data(), columns, threads);
  rotate_rows();
}

Buffer<float> permuted(const Buffer<float>& hessian, const std::vector<int64_t>& order) {
  const auto n = order.size();
  auto out = Buffer<float>::uninitialized(n * n);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) out[i * n + j] = hessian[static_cast<size_t>(order[i]) * n + static_cast<size_t>(order[j])];
  return out;
}

std::vector<int64_t> falling_diagonal(const Buffer<float>& hessian, int64_t columns) {
  std::vector<int64_t> order(static_cast<size_t>(columns));
  std::iota(order.begin(), order.end(), 0);
  const auto diagonal = [&](int64_t k) { return hessian[static_cast<size_t>(k * columns + k)]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return diagonal(a) > diagonal(b); });
  return order;
}

}  // namespace tq
