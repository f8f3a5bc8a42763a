// Means with standard errors.
#pragma once

#include <span>
#include <vector>

namespace tq {

struct Mean {
  double mean = 0, standard_error = 0;
};

// Of values that are independent. One value has no standard error (0).
Mean mean_of(std::span<const double> values);

// The middle one, or the mean of the two in the middle; at least one value.
double median(std::vector<double> values);

}  // namespace tq
