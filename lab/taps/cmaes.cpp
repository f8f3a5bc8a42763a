#include "cmaes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace tq::lab {
namespace {

// Eigenvectors (columns of `basis`) and eigenvalues (diagonal of `a`) of a symmetric matrix: cyclic Jacobi rotations.
void jacobi(std::vector<Point>& a, std::vector<Point>& basis) {
  const size_t n = a.size();
  for (size_t i = 0; i < n; ++i) {
    basis[i].assign(n, 0.0);
    basis[i][i] = 1.0;
  }
  for (int sweep = 0; sweep < 30; ++sweep) {
    double off = 0.0;
    for (size_t p = 0; p < n; ++p)
      for (size_t q = p + 1; q < n; ++q) {
        off += a[p][q] * a[p][q];
        if (std::fabs(a[p][q]) < 1e-300) continue;
        const double theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
        const double t = (theta >= 0.0 ? 1.0 : -1.0) / (std::fabs(theta) + std::sqrt(theta * theta + 1.0));
        const double c = 1.0 / std::sqrt(t * t + 1.0), s = t * c;
        for (size_t k = 0; k < n; ++k) {
          const double x = a[k][p], y = a[k][q];
          a[k][p] = c * x - s * y, a[k][q] = s * x + c * y;
        }
        for (size_t k = 0; k < n; ++k) {
          const double x = a[p][k], y = a[q][k];
          a[p][k] = c * x - s * y, a[q][k] = s * x + c * y;
        }
        for (size_t k = 0; k < n; ++k) {
          const double x = basis[k][p], y = basis[k][q];
          basis[k][p] = c * x - s * y, basis[k][q] = s * x + c * y;
        }
      }
    if (off < 1e-26) return;
  }
}

}  // namespace

CmaEs::CmaEs(Point mean, double step, int population, uint64_t seed)
    : size_(mean.size()), mean_(std::move(mean)), step_(step), rng_(seed), best_cost_(std::numeric_limits<double>::infinity()) {
  const double n = static_cast<double>(size_);
  points_.assign(static_cast<size_t>(population), Point(size_));
  normals_ = points_;
  weight_.resize(static_cast<size_t>(population / 2));
  for (size_t i = 0; i < weight_.size(); ++i) weight_[i] = std::log((population + 1) / 2.0) - std::log(static_cast<double>(i + 1));
  const double sum = std::accumulate(weight_.begin(), weight_.end(), 0.0);
  double squares = 0.0;
  for (double& w : weight_) w /= sum, squares += w * w;
  weight_mass_ = 1.0 / squares;
  path_rate_ = (4.0 + weight_mass_ / n) / (n + 4.0 + 2.0 * weight_mass_ / n);
  step_rate_ = (weight_mass_ + 2.0) / (n + weight_mass_ + 5.0);
  damping_ = 1.0 + 2.0 * std::max(0.0, std::sqrt((weight_mass_ - 1.0) / (n + 1.0)) - 1.0) + step_rate_;
  rank_one_ = 2.0 / ((n + 1.3) * (n + 1.3) + weight_mass_);
  rank_mu_ = std::min(1.0 - rank_one_, 2.0 * (weight_mass_ - 2.0 + 1.0 / weight_mass_) / ((n + 2.0) * (n + 2.0) + weight_mass_));
  expected_length_ = std::sqrt(n) * (1.0 - 1.0 / (4.0 * n) + 1.0 / (21.0 * n * n));
  path_.assign(size_, 0.0);
  step_path_ = path_;
  scale_.assign(size_, 1.0);
  covariance_.assign(size_, Point(size_, 0.0));
  for (size_t i = 0; i < size_; ++i) covariance_[i][i] = 1.0;
  basis_ = covariance_;
  best_ = mean_;
}

const std::vector<Point>& CmaEs::ask() {
  Point z(size_);
  for (size_t p = 0; p < points_.size(); ++p) {
    for (size_t i = 0; i < size_; ++i) z[i] = scale_[i] * rng_.gaussian();
    for (size_t i = 0; i < size_; ++i) {
      normals_[p][i] = std::inner_product(z.begin(), z.end(), basis_[i].begin(), 0.0);
      points_[p][i] = mean_[i] + step_ * normals_[p][i];
    }
  }
  return points_;
}

void CmaEs::tell(const std::vector<double>& cost) {
  std::vector<size_t> order(points_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return cost[a] < cost[b]; });
  if (cost[order[0]] < best_cost_) best_cost_ = cost[order[0]], best_ = points_[order[0]];

  Point move(size_, 0.0), white(size_);
  for (size_t i = 0; i < weight_.size(); ++i)
    for (size_t k = 0; k < size_; ++k) move[k] += weight_[i] * normals_[order[i]][k];
  for (size_t k = 0; k < size_; ++k) mean_[k] += step_ * move[k];
  for (size_t i = 0; i < size_; ++i) {  // basis^T move / scale; the rotation back does not change the length
    double sum = 0.0;
    for (size_t k = 0; k < size_; ++k) sum += basis_[k][i] * move[k];
    white[i] = sum / scale_[i];
  }
  double length = 0.0;
  for (size_t k = 0; k < size_; ++k) {
    double back = 0.0;
    for (size_t i = 0; i < size_; ++i) back += basis_[k][i] * white[i];
    step_path_[k] = (1.0 - step_rate_) * step_path_[k] + std::sqrt(step_rate_ * (2.0 - step_rate_) * weight_mass_) * back;
    length += step_path_[k] * step_path_[k];
  }
  length = std::sqrt(length);
  ++generation_;
  const double faded = 1.0 - std::pow(1.0 - step_rate_, 2.0 * static_cast<double>(generation_));
  const bool steady = length / std::sqrt(faded) < (1.4 + 2.0 / (static_cast<double>(size_) + 1.0)) * expected_length_;
  for (size_t k = 0; k < size_; ++k)
    path_[k] = (1.0 - path_rate_) * path_[k] + (steady ? std::sqrt(path_rate_ * (2.0 - path_rate_) * weight_mass_) * move[k] : 0.0);
  const double keep = 1.0 - rank_one_ - rank_mu_ + (steady ? 0.0 : rank_one_ * path_rate_ * (2.0 - path_rate_));
  for (size_t a = 0; a < size_; ++a)
    for (size_t b = 0; b < size_; ++b) {
      double rank_mu = 0.0;
      for (size_t i = 0; i < weight_.size(); ++i) rank_mu += weight_[i] * normals_[order[i]][a] * normals_[order[i]][b];
      covariance_[a][b] = keep * covariance_[a][b] + rank_one_ * path_[a] * path_[b] + rank_mu_ * rank_mu;
    }
  step_ *= std::exp(std::min(1.0, step_rate_ / damping_ * (length / expected_length_ - 1.0)));
  decompose();
}

void CmaEs::decompose() {
  std::vector<Point> a = covariance_;
  jacobi(a, basis_);
  for (size_t i = 0; i < size_; ++i) scale_[i] = std::sqrt(std::max(a[i][i], 1e-20));
}

}  // namespace tq::lab
