// Means with standard errors.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace tq {

struct Mean {
  double mean = 0, standard_error = 0;
};

// Of values that are independent. One value has no standard error: it is NaN, which JSON writes as null.
Mean mean_of(std::span<const double> values);

// For pictures: 0 where there is none.
double whisker(const Mean& mean);
// "± 0.0012", or "± -".
std::string error_text(double standard_error, int digits);

// The middle one, or the mean of the two in the middle; at least one value.
double median(std::vector<double> values);

}  // namespace tq
