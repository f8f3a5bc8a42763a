// Evolution strategy with covariance matrix adaptation (Hansen, "The CMA Evolution Strategy: A Tutorial", 2016, arXiv:1604.00772).
#pragma once

#include <vector>

#include "base/rng.h"

namespace tq::lab {

using Point = std::vector<double>;

class CmaEs {
 public:
  // population >= 4. step: the first standard deviation of every coordinate.
  CmaEs(Point mean, double step, int population, uint64_t seed);

  // The next points to evaluate, and their costs (lower is better) in the same order.
  const std::vector<Point>& ask();
  void tell(const std::vector<double>& cost);

  const Point& best() const { return best_; }
  double best_cost() const { return best_cost_; }
  double step() const { return step_; }

 private:
  void decompose();

  size_t size_;
  Point mean_;
  double step_;
  Rng rng_;
  std::vector<Point> points_, normals_;  // normals: (point - mean) / step
  std::vector<double> weight_;           // of the better half
  double weight_mass_, path_rate_, step_rate_, damping_, rank_one_, rank_mu_, expected_length_;
  Point path_, step_path_;
  std::vector<Point> covariance_, basis_;  // basis: columns are eigenvectors
  Point scale_;                            // square roots of the eigenvalues
  int64_t generation_ = 0;
  Point best_;
  double best_cost_;
};

}  // namespace tq::lab
