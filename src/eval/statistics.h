// Means with standard errors.
#pragma once

#include <span>

namespace tq {

struct Mean {
  double mean = 0, standard_error = 0;
};

// Of values that are independent. One value has no standard error (0).
Mean mean_of(std::span<const double> values);

}  // namespace tq
